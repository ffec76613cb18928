"""The integer runtime against the emulated one: logits, tokens, what runs in integers, and what it refuses."""

import copy
import json

import pytest
import torch
from support.cpu import needs_vnni
from support.exported import CPU, pytorch_logits, quantized_folder, step_logits
from support.int8_folders import NATIVE, distance, opened
from support.quantizing import quantization_of
from support.tiny import PROMPT, features, gated_model

from whisperq.errors import InputError, UsageError
from whisperq.models.gated_whisper import GATES
from whisperq.models.sites import model_sites, watch
from whisperq.native import processor
from whisperq.options import Execution
from whisperq.ptq.checkpoint import apply_weights, quantizers
from whisperq.quant.grid import range_qparams
from whisperq.runtime.decoding import Rules, greedy
from whisperq.runtime.open import open_model, open_runtime
from whisperq.runtime.pytorch import PyTorchRuntime


@pytest.mark.parametrize("gate", GATES)
def test_logits_are_the_emulated_ones(gate, tmp_path):
    folder = quantized_folder(gated_model(gate), tmp_path / "model")
    assert distance(step_logits(opened(folder), batch=7), pytorch_logits(folder, batch=7)) < 1e-3


def test_a_single_row_at_a_time(tmp_path):
    folder = quantized_folder(gated_model(), tmp_path / "model")
    runtime = opened(folder)
    found, expected = (
        torch.cat([run(seed) for seed in range(5)], dim=1)
        for run in (
            lambda seed: step_logits(runtime, batch=1, seed=seed),
            lambda seed: pytorch_logits(folder, batch=1, seed=seed),
        )
    )
    assert distance(found, expected) < 1e-3


@pytest.mark.parametrize(
    "options",
    [
        {"cross_gate": False},
        {"encoder_attention_heads": 4, "decoder_attention_heads": 1},
        {"encoder_ffn_dim": 50, "decoder_ffn_dim": 30},
        {"d_model": 44, "encoder_layers": 3, "decoder_layers": 1},
    ],
    ids=str,
)
def test_other_shapes(options, tmp_path):
    folder = quantized_folder(gated_model(**options), tmp_path / "model")
    assert distance(step_logits(opened(folder), batch=7), pytorch_logits(folder, batch=7)) < 1e-3


@NATIVE
@pytest.mark.parametrize("gate", ["headwise", "elementwise", "none"])
def test_bf16_attention_stays_near(gate, tmp_path):
    folder = quantized_folder(gated_model(gate), tmp_path / "model")
    assert distance(step_logits(opened(folder, "bfloat16"), batch=7), pytorch_logits(folder, batch=7)) < 8e-2


def test_without_a_compiler_it_runs_and_says_so(tmp_path, no_compiler):
    folder = quantized_folder(gated_model(), tmp_path / "model")
    assert "no C++ compiler is at hand" in opened(folder, reduce_range=None).notices[0]
    needs_vnni()
    runtime = opened(folder)
    assert distance(step_logits(runtime, batch=7), pytorch_logits(folder, batch=7)) < 1e-3


def test_a_compiler_that_fails_is_no_error(tmp_path, monkeypatch, no_compiler):
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\necho out of order >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = quantized_folder(gated_model(), tmp_path / "model")
    assert "out of order" in opened(folder, reduce_range=None).notices[0]
    assert not list((tmp_path / "cache" / "whisperq" / "kernels").iterdir())  # nothing half-built is left


def test_tokens_are_the_emulated_ones(tmp_path):
    folder = quantized_folder(gated_model(seed=3), tmp_path / "model")
    rules = Rules(PROMPT, end=-1, max_tokens=20)
    ours = greedy(opened(folder), features(5), rules)
    with open_model(folder, CPU) as model:
        assert ours == greedy(model.runtime, features(5), rules)
    assert all(len(row) == 16 for row in ours)


def test_a_batch_is_decoded_as_each_of_its_rows_alone(tmp_path):
    runtime = opened(quantized_folder(gated_model(), tmp_path / "model"))
    rules = Rules(PROMPT, end=-1, max_tokens=20)
    together = greedy(runtime, features(5), rules)
    assert together == [greedy(runtime, one[None], rules)[0] for one in features(5)]


def test_the_cache_is_as_good_as_reading_everything_again(tmp_path):
    runtime = opened(quantized_folder(gated_model(), tmp_path / "model"))
    tokens = torch.randint(0, 250, (2, 9), generator=torch.Generator().manual_seed(1))
    stepwise, whole = runtime.encode(features(2)), runtime.encode(features(2))
    for token in tokens.split(1, dim=1):
        last = runtime.decode_step(token, stepwise)
    torch.testing.assert_close(last, runtime.decode_step(tokens, whole), atol=1e-3, rtol=1e-3)


def test_seven_bits_are_those_of_emulation_with_seven_bits(tmp_path):
    model = gated_model()
    folder = quantized_folder(model, tmp_path / "model")
    quantization, ranges = quantization_of(model, "gemm")
    apply_weights(model, quantization.weights)
    seven = {a: range_qparams(*r.ends, bits=7) for a, r in ranges.items()}
    with watch(model, model_sites(model), quantizers(seven)):
        expected = step_logits(PyTorchRuntime(model), batch=7)
    reduced = opened(folder, reduce_range=True)
    assert distance(step_logits(reduced, batch=7), expected) < 1e-3
    assert reduced.encoder[0].feed_forward.fc1.grid.quant_max == 127
    assert distance(step_logits(opened(folder, reduce_range=False), batch=7), expected) > 1e-3


def test_a_cpu_without_vnni_is_told(tmp_path, monkeypatch, no_compiler):
    monkeypatch.setattr(processor, "has_vnni", lambda: False)
    runtime = opened(quantized_folder(gated_model(), tmp_path / "model"), reduce_range=None)
    assert "lacks VNNI" in runtime.notices[1]
    assert runtime.encoder[0].feed_forward.fc1.grid.quant_max == 127


@pytest.mark.parametrize("bits", [4, 6])
def test_fewer_bits(bits, tmp_path):
    folder = quantized_folder(gated_model(), tmp_path / "model", bits=bits)
    assert distance(step_logits(opened(folder), batch=7), pytorch_logits(folder, batch=7)) < 1e-3


def test_every_layer_runs_in_integers_and_is_counted(tmp_path):
    products = opened(quantized_folder(gated_model(), tmp_path / "model")).products()
    blocks, layers = 2 + 2 * 2, ("q_proj", "k_proj", "v_proj", "gate", "out_proj")
    assert len(products.integer) == blocks * len(layers) + 2 * 4 + 3  # fc1 and fc2, two convolutions, proj_out
    assert set(products.floating) == {
        f"{block}.{name}" for name in ("scores", "context")
        for block in ("enc.0", "enc.1", "dec.0", "dec.1", "dec.0.cross", "dec.1.cross")
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "excluded, floating",
    [
        ("enc.0.fc1", {"enc.0.fc1": "float weight"}),
        ("enc.0.mlp_norm", {"enc.0.fc1": "float input"}),
        ("enc.1.q_proj:weight", {"enc.1.q_proj": "float weight"}),
        ("enc.conv1,enc.conv2", {"enc.conv1": "float input and weight", "enc.conv2": "float input and weight"}),
        ("proj_out:weight", {"proj_out": "float weight"}),
        ("dec.0.cross.k_proj", {"dec.0.cross.k_proj": "float weight"}),
        ("enc.*.fc2:input", {"enc.0.fc2": "float input", "enc.1.fc2": "float input"}),
    ],
)
def test_what_was_excluded_runs_in_float_and_is_named(excluded, floating, tmp_path):
    folder = quantized_folder(gated_model(), tmp_path / "model", exclude=(excluded,))
    runtime = opened(folder)
    found = {a: why for a, why in runtime.products().floating.items() if not a.endswith((".scores", ".context"))}
    assert found.keys() == floating.keys()
    assert distance(step_logits(runtime, batch=7), pytorch_logits(folder, batch=7)) < 1e-3


def test_the_encoder_alone(tmp_path):
    folder = quantized_folder(gated_model(), tmp_path / "model", encoder_only=True)
    runtime = opened(folder)
    assert all(a.startswith("enc.") for a in runtime.products().integer)
    assert distance(step_logits(runtime, batch=7), pytorch_logits(folder, batch=7)) < 1e-3


def test_the_paper_recipe_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(UsageError, match="quantize --recipe gemm"):
        opened(quantized_folder(gated_model(), tmp_path / "model", "paper"))


def test_another_activation_function_is_refused(tmp_path):
    folder = quantized_folder(gated_model(activation_function="relu"), tmp_path / "model")
    with pytest.raises(UsageError, match="relu"):
        opened(folder)


def test_a_float_model_is_refused(finished_run):
    with (
        pytest.raises(UsageError, match="holds a float model"),
        open_runtime(finished_run / "distilled", Execution(runtime="int8"), CPU),
    ):
        pass


@pytest.mark.parametrize("options", [{"reduce_range": True}, {"attention_dtype": "bfloat16"}], ids=str)
def test_settings_of_the_integer_runtime_are_refused_elsewhere(options, tmp_path):
    folder = quantized_folder(gated_model(), tmp_path / "model")
    with (
        pytest.raises(UsageError, match="--reduce-range|--attention-dtype"),
        open_runtime(folder, Execution(runtime="emulated", **options), CPU),
    ):
        pass


@pytest.mark.parametrize("damage", ["cut", "foreign", "nonsense", "no grids"])
def test_a_damaged_model_is_refused(damage, tmp_path):
    folder = quantized_folder(gated_model(), tmp_path / "model")
    weights, grids = folder / "quantized.safetensors", folder / "qparams.json"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "foreign":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"encoder_layers": 3}))
    elif damage == "nonsense":
        weights.write_text("not tensors")
    else:
        grids.write_text("{}")
    with pytest.raises(InputError):
        opened(folder)


def test_nothing_packed_is_left_on_disk(tmp_path):
    folder = quantized_folder(gated_model(), tmp_path / "model")
    before = {p: p.read_bytes() for p in folder.iterdir()}
    step_logits(opened(folder), batch=7)
    assert {p: p.read_bytes() for p in folder.iterdir()} == before


def test_the_model_in_memory_may_be_dropped(tmp_path):
    """Codes looked up by token outlive the reader that mapped them."""
    runtime = opened(quantized_folder(gated_model(), tmp_path / "model"))
    copied = copy.deepcopy(runtime.table.rows)
    assert torch.equal(runtime.table.rows, copied)


@pytest.mark.slow
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("excluded", ["*.0.{q,k,v}_proj:weight", "dec.*.cross.{k,v}_proj:weight", "*.*.gate:weight"])
def test_whole_blocks_of_float_weights_read_quantized_inputs(gate, excluded, tmp_path):
    head, _, rest = excluded.partition("{")
    names, _, tail = rest.partition("}")
    patterns = [f"{head}{name}{tail}" for name in names.split(",")]
    model = gated_model(gate)
    if "gate" in excluded and gate == "none":
        pytest.skip("no gate to exclude")
    folder = quantized_folder(model, tmp_path / "model", exclude=patterns)
    assert distance(step_logits(opened(folder), batch=9), pytorch_logits(folder, batch=9)) < 1e-3
