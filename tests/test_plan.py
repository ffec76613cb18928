"""Which weights and activations the recipes take, against lists written out by hand."""

import pytest
from support.tiny import gated_model

from whisperq.errors import UsageError
from whisperq.models.sites import model_sites
from whisperq.ptq.cross_cache import cache_sites
from whisperq.ptq.plan import PaperScope, make_plan

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")
ATTENTION = ("attn_norm", "q_proj", "k_proj", "v_proj", "scores", "probs", "context", "out_proj", "attn_sum")
FEED_FORWARD = ("mlp_norm", "fc1", "fc2:input", "fc2", "mlp_sum")
ATTENTION_INPUTS, FEED_FORWARD_INPUTS = {"attn_norm", "context"}, {"mlp_norm", "fc2:input"}
AROUND_WEIGHTS = {"model.encoder.conv1.weight", "model.encoder.conv2.weight", "proj_out.weight"}
AROUND_INPUTS = {"enc.conv1:input", "enc.conv2:input", "enc.norm", "dec.norm"}


@pytest.fixture(scope="module", params=["headwise", "mlp", "none"])
def model(request):
    return gated_model(request.param)


@pytest.fixture(scope="module")
def gated():
    return gated_model()


def block_weights(gate: str) -> set[str]:
    """Every weight matrix of two encoder and two decoder layers."""
    gates = {"none": (), "mlp": ("gate.hidden", "gate.linear")}.get(gate, ("gate.linear",))
    attention = (*PROJECTIONS, *gates)
    encoder = [*(f"self_attn.{p}" for p in attention), "fc1", "fc2"]
    decoder = [*encoder, *(f"encoder_attn.{p}" for p in attention)]
    return {
        f"model.{part}.layers.{i}.{name}.weight"
        for part, names in (("encoder", encoder), ("decoder", decoder))
        for i in range(2)
        for name in names
    }


def block_sites(attention, feed_forward) -> set[str]:
    """These components of two encoder and two decoder layers, cross-attention included."""
    own = {*attention, *feed_forward}
    encoder = {f"enc.{i}.{c}" for i in range(2) for c in own}
    decoder = {f"dec.{i}.{c}" for i in range(2) for c in own | {f"cross.{c}" for c in attention}}
    return encoder | decoder


def weights_of(plan) -> set[str]:
    names = [w.parameter for w in plan.weights]
    assert len(names) == len(set(names))
    return set(names)


def test_paper_takes_all_of_the_blocks_but_the_last_encoder_output(model):
    plan = make_plan(model, "paper")
    attention = ATTENTION if model.config.gate == "none" else (*ATTENTION, "gate")
    expected = block_sites(attention, FEED_FORWARD)
    assert set(plan.activations) == expected - {"enc.1.out_proj", "enc.1.attn_sum"}
    assert len(plan.activations) == len(set(plan.activations))
    assert weights_of(plan) == block_weights(model.config.gate)


LAST_MLP = {"enc.1.fc2", "enc.1.mlp_sum", "enc.1.mlp_norm"}
LAST_ATTENTION = {"enc.1.out_proj", "enc.1.attn_sum"}


@pytest.mark.parametrize(
    "exception, blocks, everywhere",
    [("attention", LAST_ATTENTION, {"enc.norm"}), ("mlp", LAST_MLP, {"enc.norm"}), ("none", set(), set())],
)
def test_the_papers_exception_has_three_readings(model, exception, blocks, everywhere):
    """Within the blocks, and with all of the model; inputs of linear layers are quantized but for what is excepted."""
    attention = ATTENTION if model.config.gate == "none" else (*ATTENTION, "gate")
    of = {s: make_plan(model, "paper", scope=PaperScope(s, exception)) for s in ("linear", "blocks", "all")}
    assert {*of["blocks"].activations} == block_sites(attention, FEED_FORWARD) - blocks
    assert {*of["all"].activations} == {*model_sites(model)} - blocks - everywhere
    assert {*of["linear"].activations} == block_sites(ATTENTION_INPUTS, FEED_FORWARD_INPUTS) - blocks
    assert weights_of(of["linear"]) == weights_of(of["blocks"]) == block_weights(model.config.gate)
    assert weights_of(of["all"]) == block_weights(model.config.gate) | AROUND_WEIGHTS
    assert not of["all"].float_weights
    assert all(set(plan.float_activations) | set(plan.activations) == set(model_sites(model)) for plan in of.values())


def test_without_a_word_the_scope_is_the_papers(gated):
    assert make_plan(gated, "paper") == make_plan(gated, "paper", scope=PaperScope("blocks", "attention"))
    assert make_plan(gated, "gemm") == make_plan(gated, "gemm", scope=PaperScope("all", "none"))


def test_gemm_takes_the_integer_products_and_their_inputs(model):
    plan = make_plan(model, "gemm")
    assert set(plan.activations) == block_sites(ATTENTION_INPUTS, FEED_FORWARD_INPUTS) | AROUND_INPUTS
    assert weights_of(plan) == block_weights(model.config.gate) | AROUND_WEIGHTS


@pytest.mark.parametrize("recipe", ["paper", "gemm"])
def test_every_site_and_weight_is_quantized_or_has_a_reason(model, recipe):
    plan = make_plan(model, recipe, exclude=["enc.0"])
    assert {*plan.activations} | {*plan.float_activations} == set(model_sites(model))
    assert not {*plan.activations} & {*plan.float_activations}
    assert weights_of(plan) | {*plan.float_weights} == block_weights(model.config.gate) | AROUND_WEIGHTS
    assert not weights_of(plan) & {*plan.float_weights}
    assert all({**plan.float_activations, **plan.float_weights}.values())


@pytest.mark.parametrize(
    "gate, dims", [("headwise", 1), ("elementwise", 1), ("shared", 1), ("per-head", 2), ("mlp", 2)]
)
def test_channel_dims_of_gate_weights(gate, dims):
    model = gated_model(gate)
    for weight in make_plan(model, "gemm").weights:
        expected = dims if ".gate." in weight.parameter else 1
        assert weight.channel_dims == expected
        assert model.get_parameter(weight.parameter).dim() == {1: 2, 2: 3}[expected] + ("conv" in weight.parameter)


LAYER_0 = {f"model.encoder.layers.0.{n}.weight"
           for n in (*(f"self_attn.{p}" for p in (*PROJECTIONS, "gate.linear")), "fc1", "fc2")}  # fmt: skip
CROSS_1 = {f"model.decoder.layers.1.encoder_attn.{p}.weight" for p in (*PROJECTIONS, "gate.linear")}
FC1_0 = {"model.encoder.layers.0.fc1.weight"}


@pytest.mark.parametrize(
    "exclude, weights, activations",
    [
        ("enc.0.*", LAYER_0, {"enc.0.attn_norm", "enc.0.context", "enc.0.mlp_norm", "enc.0.fc2:input"}),
        ("dec.1.cross", CROSS_1, {"dec.1.cross.attn_norm", "dec.1.cross.context"}),
        ("dec.-1.cross", CROSS_1, {"dec.1.cross.attn_norm", "dec.1.cross.context"}),
        ("enc.0.fc1:weight", FC1_0, {"enc.0.mlp_norm"}),
        ("enc.0.fc1:input", set(), {"enc.0.mlp_norm"}),
        ("enc.0.attn_norm", set(), {"enc.0.attn_norm"}),
        ("proj_out", {"proj_out.weight"}, {"dec.norm"}),
        ("enc.conv1", {"model.encoder.conv1.weight"}, {"enc.conv1:input"}),
        ("*.0.q_proj", {f"model.{p}.layers.0.self_attn.q_proj.weight" for p in ("encoder", "decoder")}, set()),
    ],
)
def test_exclusions_of_gemm(gated, exclude, weights, activations):
    whole, plan = make_plan(gated, "gemm"), make_plan(gated, "gemm", exclude=[exclude])
    assert weights_of(whole) - weights_of(plan) == weights
    assert {*whole.activations} - {*plan.activations} == activations
    assert {*plan.activations} <= {*whole.activations}
    assert all(plan.float_weights[w] == "--exclude" for w in weights)


@pytest.mark.parametrize(
    "exclude, weights, activations",
    [
        ("enc.0.*", LAYER_0, {f"enc.0.{c}" for c in (*ATTENTION, "gate", *FEED_FORWARD)}),
        ("dec.1.cross", CROSS_1, {f"dec.1.cross.{c}" for c in (*ATTENTION, "gate")}),
        ("enc.0.fc1:weight", FC1_0, set()),
        ("enc.0.fc1", FC1_0, {"enc.0.fc1"}),
        ("enc.0.attn_norm", set(), {"enc.0.attn_norm"}),
        ("enc.-1.mlp_norm", set(), {"enc.1.mlp_norm"}),
        ("enc.1.fc2:input", set(), {"enc.1.fc2:input"}),
        ("dec.0.q_proj:input", set(), {"dec.0.attn_norm"}),
    ],
)
def test_exclusions_of_paper(gated, exclude, weights, activations):
    whole, plan = make_plan(gated, "paper"), make_plan(gated, "paper", exclude=[exclude])
    assert weights_of(whole) - weights_of(plan) == weights
    assert {*whole.activations} - {*plan.activations} == activations


def test_spaces_in_a_list_of_exclusions_mean_nothing(gated):
    spaced, plain = (
        make_plan(gated, "gemm", exclude=[text]) for text in ("enc.0.fc1, proj_out ", "enc.0.fc1,proj_out")
    )
    assert spaced == plain != make_plan(gated, "gemm")
    assert cache_sites(gated, [" dec.0.cross.k_proj , enc.0"]) == [f"dec.1.cross.{n}" for n in ("k_proj", "v_proj")]


def test_a_shared_input_goes_float_only_with_the_last_of_its_consumers(gated):
    readers = ["enc.0.q_proj", "enc.0.k_proj", "enc.0.v_proj", "enc.0.gate"]
    for left in readers:
        others = [r for r in readers if r != left]
        assert "enc.0.attn_norm" in make_plan(gated, "gemm", exclude=others).activations
    assert "enc.0.attn_norm" not in make_plan(gated, "gemm", exclude=readers).activations
    keys_and_values = [f"dec.{i}.cross.{p}" for i in range(2) for p in ("k_proj", "v_proj")]
    assert "enc.norm" in make_plan(gated, "gemm", exclude=keys_and_values[:-1]).activations
    assert "enc.norm" not in make_plan(gated, "gemm", exclude=keys_and_values).activations


@pytest.mark.parametrize("recipe", ["paper", "gemm"])
def test_encoder_only(gated, recipe):
    whole, plan = make_plan(gated, recipe), make_plan(gated, recipe, encoder_only=True)
    assert weights_of(plan) == {w for w in weights_of(whole) if w.startswith("model.encoder.")}
    # only the decoder's cross-attention takes enc.norm in
    assert {*plan.activations} == {a for a in whole.activations if a.startswith("enc.") and a != "enc.norm"}
    assert plan.float_weights["proj_out.weight"] == plan.float_activations["dec.0.fc1"] == "--encoder-only"


@pytest.mark.parametrize("recipe", ["paper", "gemm"])
@pytest.mark.parametrize(
    "exclude", ["enc.9.fc1", "enc.0.fc3", "dec.-3.*", "enc.0.crss", "", "enc.0.scores:weight", "enc.0.fc1:wait"]
)
def test_an_exclusion_that_names_nothing_is_an_error(gated, recipe, exclude):
    with pytest.raises(UsageError, match="names no"):
        make_plan(gated, recipe, exclude=["enc.0.fc1", exclude])


def test_gates_of_an_ungated_model_cannot_be_excluded():
    with pytest.raises(UsageError, match="enc.0.gate"):
        make_plan(gated_model("none"), "gemm", exclude=["enc.0.gate"])
