"""Site addresses, what stands behind them, and watching that leaves no trace."""

import pytest
import torch
from support.tiny import GATED, decoder_ids, features, gated_model, logits_of
from torch.nn.functional import linear

from whisperq.errors import UsageError
from whisperq.models.module_map import ATTENTION, FEED_FORWARD
from whisperq.models.sites import canonical, model_sites, resolve, watch

BLOCK = "attn_norm q_proj k_proj v_proj gate scores probs context out_proj attn_sum mlp_norm fc1 fc2 mlp_sum".split()


@pytest.fixture(scope="module")
def model():
    return gated_model(encoder_layers=3)


@pytest.fixture(scope="module")
def sites(model):
    return model_sites(model)


@pytest.fixture(scope="module")
def seen(model, sites):
    """Every site's tensor of one forward pass."""
    tensors = {}
    with watch(model, sites, {a: lambda x, a=a: tensors.update({a: x.detach().clone()}) for a in sites}):
        tensors["logits"] = logits_of(model)
    return tensors


@pytest.mark.parametrize(
    "address, expected",
    [
        ("enc.0.q_proj:input", "enc.0.attn_norm"),
        ("dec.1.v_proj:input", "dec.1.attn_norm"),
        ("dec.1.gate:input", "dec.1.attn_norm"),
        ("enc.2.out_proj:input", "enc.2.context"),
        ("enc.2.fc1:input", "enc.2.mlp_norm"),
        ("enc.2.fc2:input", "enc.2.fc2:input"),
        ("dec.1.cross.q_proj:input", "dec.1.cross.attn_norm"),
        ("dec.1.cross.k_proj:input", "enc.norm"),
        ("dec.0.cross.out_proj:input", "dec.0.cross.context"),
        ("proj_out:input", "dec.norm"),
        ("enc.conv1:input", "enc.conv1:input"),
        ("enc.0.fc1", "enc.0.fc1"),
    ],
)
def test_canonical(address, expected):
    assert canonical(address) == expected


@pytest.mark.parametrize(
    "patterns, expected",
    [
        ("enc.-1.fc1", ["enc.2.fc1"]),
        ("enc.*.out_proj", ["enc.0.out_proj", "enc.1.out_proj", "enc.2.out_proj"]),
        ("dec.*.cross.probs", ["dec.0.cross.probs", "dec.1.cross.probs"]),
        ("proj_out, enc.conv1,enc.conv1", ["enc.conv1", "proj_out"]),
        ("enc.1", [f"enc.1.{c}" for c in BLOCK[:10]]),
        ("dec.-1", [f"dec.1.{c}" for c in BLOCK[:10]]),
        ("dec.-1.cross", [f"dec.1.cross.{c}" for c in BLOCK[:10]]),
        ("enc.0.*", [f"enc.0.{c}" for c in [*BLOCK[:12], "fc2:input", *BLOCK[12:]]]),
        ("enc.0.q_proj:input,enc.0.k_proj:input", ["enc.0.attn_norm"]),
        ("dec.-1.cross.k_proj:input", ["enc.norm"]),
    ],
)
def test_resolve(sites, patterns, expected):
    assert resolve(patterns, sites) == expected


@pytest.mark.parametrize(
    "pattern, nearest",
    [("enc.0.fc3", "enc.0.fc"), ("dec.1.crss.out_proj", "dec.1.cross.out_proj"), ("dec.-3.fc1", "dec."), ("", "enc.")],
)
def test_an_unknown_address_lists_the_nearest(sites, pattern, nearest):
    with pytest.raises(UsageError, match="nearest: ") as caught:
        resolve(f"enc.0.fc1,{pattern}", sites)
    assert nearest in str(caught.value).split("nearest: ")[1]


@pytest.mark.parametrize("gate", [*GATED, "none"])
def test_the_model_offers_all_sites_and_only_those(gate):
    model = gated_model(gate)
    block = [c for c in (*BLOCK, "fc2:input") if gate != "none" or c != "gate"]
    cross = [f"cross.{c}" for c in block if c in ATTENTION]
    expected = {f"enc.{i}.{c}" for i in range(2) for c in block} | {f"dec.{i}.{c}" for i in range(2) for c in block}
    expected |= {f"dec.{i}.{c}" for i in range(2) for c in cross}
    expected |= {"enc.conv1", "enc.conv1:input", "enc.conv2", "enc.conv2:input", "enc.norm", "dec.norm", "proj_out"}
    sites = model_sites(model)
    assert set(sites) == expected
    assert set(ATTENTION + FEED_FORWARD) == set(BLOCK)
    modules = dict(model.named_modules())
    assert all(site.module in modules and site.address == a for a, site in sites.items())
    assert all(canonical(a) == a for a in sites)


def test_the_order_is_that_of_computation(model, sites):
    """By the first time that each site fires; `context` fires in the module whose output is `out_proj`."""
    fired = []
    with watch(model, sites, {a: lambda x, a=a: fired.append(a) for a in sites}):
        logits_of(model)
    assert sorted(fired) == sorted(sites)  # each exactly once
    # queries, keys, values and the gate are independent of one another
    free = ("q_proj", "k_proj", "v_proj", "gate", "scores", "probs")
    assert [a for a in fired if not a.endswith(free)] == [a for a in sites if not a.endswith(free)]


def heads(x: torch.Tensor) -> torch.Tensor:
    return x.unflatten(-1, (2, -1)).transpose(1, 2)


@pytest.mark.parametrize("block", ["enc.0.", "enc.2.", "dec.1.", "dec.1.cross."])
def test_watched_tensors_are_the_blocks(model, sites, seen, block):
    def close(ours, by_hand):
        torch.testing.assert_close(ours, by_hand, atol=1e-5, rtol=1e-5)

    def layer(name):
        return model.get_submodule(sites[block + name].module)

    source = seen["enc.norm"] if "cross" in block else seen[block + "attn_norm"]
    q, k, v = (seen[block + n] for n in ("q_proj", "k_proj", "v_proj"))
    close(q, linear(seen[block + "attn_norm"], layer("q_proj").weight, layer("q_proj").bias))
    close(k, linear(source, layer("k_proj").weight))
    close(seen[block + "scores"], heads(q * 16**-0.5) @ heads(k).mT)
    scores = seen[block + "scores"]
    if block == "dec.1.":
        scores = scores + torch.full_like(scores[0, 0], -torch.inf).triu(1)
    close(seen[block + "probs"], scores.softmax(-1))
    close(seen[block + "probs"].sum(-1), torch.ones(scores.shape[:-1]))
    gate = seen[block + "gate"]
    assert gate.min() > 0 and gate.max() < 2 and gate.std() > 0.1
    gated = gate.transpose(1, 2) * (seen[block + "probs"] @ heads(v))
    close(seen[block + "context"], gated.transpose(1, 2).flatten(2))
    close(seen[block + "out_proj"], linear(seen[block + "context"], layer("out_proj").weight, layer("out_proj").bias))


@pytest.mark.parametrize("part, index", [("enc", 1), ("dec", 1)])
def test_residual_sums_are_sums(seen, part, index):
    before, block = f"{part}.{index - 1}.", f"{part}.{index}."
    assert torch.equal(seen[block + "attn_sum"], seen[before + "mlp_sum"] + seen[block + "out_proj"])
    attended = seen[block + "attn_sum"]
    if part == "dec":
        attended = seen[block + "cross.attn_sum"]
        assert torch.equal(attended, seen[block + "attn_sum"] + seen[block + "cross.out_proj"])
    assert torch.equal(seen[block + "mlp_sum"], attended + seen[block + "fc2"])
    torch.testing.assert_close(seen[block + "fc2:input"], torch.nn.functional.gelu(seen[block + "fc1"]))


def test_the_sites_around_the_blocks(model, seen):
    encoder = model.model.encoder
    assert torch.equal(seen["enc.conv1:input"], features())
    torch.testing.assert_close(seen["enc.conv2:input"], torch.nn.functional.gelu(seen["enc.conv1"]))
    frames = torch.nn.functional.gelu(seen["enc.conv2"]).mT + encoder.embed_positions.weight
    assert torch.equal(seen["enc.0.attn_sum"], frames + seen["enc.0.out_proj"])
    torch.testing.assert_close(seen["enc.norm"], encoder.layer_norm(seen["enc.2.mlp_sum"]))
    table = model.model.decoder.embed_tokens.weight
    torch.testing.assert_close(seen["proj_out"], seen["dec.norm"] @ table.T, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen["proj_out"], seen["logits"], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("address", ["enc.0.attn_norm", "dec.0.cross.scores", "dec.1.probs", "dec.0.context",
                                     "enc.1.gate", "dec.1.cross.attn_sum", "enc.conv2:input", "dec.0.fc2:input",
                                     "enc.2.mlp_sum", "dec.norm"])  # fmt: skip
def test_a_replaced_tensor_flows_on(model, sites, seen, address):
    later = list(sites)[list(sites).index(address) + 1 :]
    new = {}
    watchers = {address: lambda x: x.clamp(max=0.1)} | {a: lambda x, a=a: new.update({a: x.clone()}) for a in later}
    with watch(model, sites, watchers):
        changed = logits_of(model)
    assert (changed - seen["logits"]).abs().max() > 1e-3
    if address.endswith("context"):
        layer = model.get_submodule(sites[address].module)
        expected = linear(seen[address].clamp(max=0.1), layer.weight, layer.bias)
        torch.testing.assert_close(new[address.replace("context", "out_proj")], expected, atol=2e-5, rtol=1e-4)


def test_replacing_the_norm_of_a_block_changes_queries_keys_values_and_gate(model, sites, seen):
    new = {}
    names = ("q_proj", "k_proj", "v_proj", "gate")
    watchers = {f"enc.1.{n}": lambda x, n=n: new.update({n: x.clone()}) for n in names}
    with watch(model, sites, {"enc.1.attn_norm": torch.zeros_like} | watchers):
        logits_of(model)
    layer = model.model.encoder.layers[1].self_attn
    assert torch.equal(new["q_proj"], layer.q_proj.bias.expand_as(new["q_proj"]))
    assert not new["k_proj"].any()
    expected = 2 * torch.sigmoid(layer.gate.linear.bias)
    torch.testing.assert_close(new["gate"], expected.view(1, 1, 2, 1).expand_as(new["gate"]))


def hook_count(model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("failure", ["none", "watcher", "body", "address"])
def test_watching_leaves_no_trace(model, sites, seen, failure):
    def fail(x):
        raise ArithmeticError

    watchers = {a: lambda x: None for a in sites} | ({"dec.1.probs": fail} if failure == "watcher" else {})
    if failure == "address":
        watchers["enc.0.nothing"] = fail
    before = hook_count(model)
    try:
        with watch(model, sites, watchers):
            assert hook_count(model) == before + len(sites)
            logits_of(model)
            if failure == "body":
                fail(None)
    except (ArithmeticError, KeyError):
        assert failure != "none"
    else:
        assert failure == "none"
    assert hook_count(model) == before == 0
    fused = logits_of(model)
    torch.testing.assert_close(fused, seen["logits"], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "address, shape, unpadded",
    [
        ("dec.0.fc1", (9, 48), (4, 48)),
        ("dec.0.gate", (9, 2, 1), (4, 2, 1)),
        ("dec.1.probs", (2, 9, 9), (2, 4, 4)),
        ("dec.1.cross.probs", (2, 9, 50), (2, 4, 50)),
        ("dec.1.cross.k_proj", (50, 32), (50, 32)),
        ("dec.norm", (9, 32), (4, 32)),
        ("proj_out", (9, 316), (4, 316)),
        ("enc.0.scores", (2, 50, 50), (2, 50, 50)),
        ("enc.norm", (50, 32), (50, 32)),
        ("enc.conv1", (32, 100), (32, 100)),
    ],
)
def test_unpad(sites, seen, address, shape, unpadded):
    assert seen[address].shape[1:] == shape
    one, other = sites[address].utterances(seen[address], {"tokens": [4, 9]})
    assert one.shape == unpadded and other.shape == shape
    assert torch.equal(one, seen[address][0][tuple(slice(n) for n in unpadded)])


def test_a_short_utterance_in_a_padded_batch_is_as_it_is_alone(model, sites, seen):
    """Unpadding leaves exactly what the utterance's own tokens made."""
    alone = {}
    wanted = [a for a in sites if a.startswith("dec.")]
    with watch(model, sites, {a: lambda x, a=a: alone.update({a: x.clone()}) for a in wanted}), torch.no_grad():
        model(input_features=features()[:1], decoder_input_ids=decoder_ids()[:1, :4])
    for address in wanted:
        (ours,) = sites[address].utterances(seen[address][:1], {"tokens": [4]})
        torch.testing.assert_close(ours, alone[address][0], atol=5e-5, rtol=1e-4)
