"""Gated attention against stock Whisper, and against the equation written out in plain torch."""

import math

import pytest
import torch
from support.tiny import GATED, decoder_ids, features, gated_model, logits_of, sizes, stock_twin
from torch.nn.functional import linear, scaled_dot_product_attention

from whisperq.models.gated_whisper import (
    GATES,
    GatedWhisperConfig,
    GatedWhisperForConditionalGeneration,
    explicit_attention,
)
from whisperq.models.loading import empty_model, parameter_count
from whisperq.models.sites import model_sites, watch

ATTENTION = ("sdpa", "eager")
DEEPER = {"d_model": 48, "encoder_attention_heads": 3, "decoder_attention_heads": 3}


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("gate", GATES)
def test_open_gates_of_one_half_leave_stock_whisper_exactly(gate, attention):
    model = gated_model(gate, random_gates=False, attention=attention)
    assert torch.equal(logits_of(model), logits_of(stock_twin(model, attention)))


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("pi_init", [0.25, 0.9])
@pytest.mark.parametrize("gate", GATED)
def test_open_gates_of_any_pi_init_leave_stock_whisper(gate, pi_init, attention):
    model = gated_model(gate, random_gates=False, attention=attention, gate_init=pi_init)
    expected = logits_of(stock_twin(model, attention))
    torch.testing.assert_close(logits_of(model), expected, atol=2e-5, rtol=1e-6)
    layer = model.model.decoder.layers[1].encoder_attn
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer.gate(x), torch.ones_like(layer.gate(x)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("gate", GATED)
def test_random_gates_change_the_output(gate):
    model = gated_model(gate)
    assert (logits_of(model) - logits_of(stock_twin(model))).abs().max() > 0.1


@pytest.mark.parametrize("gate", GATED)
def test_gradients_reach_every_open_gate(gate):
    model = gated_model(gate, random_gates=False)
    model(input_features=features(), decoder_input_ids=decoder_ids()).logits.square().mean().backward()
    weights = {n: p for n, p in model.named_parameters() if ".gate.linear." in n}
    assert len(weights) == 2 * (2 + 2 * 2)  # weight and bias of two encoder layers, two decoder layers with cross
    assert all(p.grad.abs().max() > 0 for p in weights.values())


def gate_by_hand(gate, kind: str, x: torch.Tensor, heads: int, pi_init: float) -> list[torch.Tensor]:
    """sigmoid(G(x)) / pi_init of each head, (batch, length, 1 or d_head)."""
    weights = dict(gate.named_parameters())
    weight, bias = weights["linear.weight"], weights["linear.bias"]
    parts = []
    for h, x_h in enumerate(x.chunk(heads, dim=-1)):
        if kind == "headwise":
            g = (x @ weight[h] + bias[h])[..., None]
        elif kind == "elementwise":
            rows = slice(h * x_h.shape[-1], (h + 1) * x_h.shape[-1])
            g = linear(x, weight[rows], bias[rows])
        elif kind == "shared":
            g = linear(x_h, weight, bias)
        elif kind == "per-head":
            g = linear(x_h, weight[h], bias[h])
        else:
            hidden = linear(x_h, weights["hidden.weight"][h], weights["hidden.bias"][h]).clamp(min=0)
            g = linear(hidden, weight[h], bias[h])
        parts.append(1 / (1 + torch.exp(-g)) / pi_init)
    return parts


def attention_by_hand(block, kind: str, x, source, heads: int, pi_init: float, causal: bool) -> torch.Tensor:
    """The whole block, head after head, from its weights."""
    w = {name: (m.weight, m.bias) for name, m in block.named_children() if name.endswith("_proj")}
    q, k, v = linear(x, *w["q_proj"]), linear(source, *w["k_proj"]), linear(source, *w["v_proj"])
    gates = gate_by_hand(block.gate, kind, x, heads, pi_init)
    contexts = []
    for q_h, k_h, v_h, g_h in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), gates, strict=True):
        scores = q_h @ k_h.mT / math.sqrt(q_h.shape[-1])
        if causal:
            scores = scores + torch.full_like(scores, -torch.inf).triu(1)
        contexts.append(g_h * (scores.softmax(-1) @ v_h))
    return linear(torch.cat(contexts, -1), *w["out_proj"])


@pytest.mark.parametrize("pi_init", [0.5, 0.25])
@pytest.mark.parametrize("block", ["encoder", "decoder", "cross"])
@pytest.mark.parametrize("gate", GATED)
def test_gated_block_is_the_equation(gate, block, pi_init):
    model = gated_model(gate, gate_init=pi_init, **DEEPER)
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(2, 6, 48, generator=generator)
    source = torch.randn(2, 11, 48, generator=generator) if block == "cross" else x
    layer = (model.model.encoder if block == "encoder" else model.model.decoder).layers[1]
    attention = layer.encoder_attn if block == "cross" else layer.self_attn
    with torch.no_grad():
        ours, _ = attention(x, key_value_states=source if block == "cross" else None)
        by_hand = attention_by_hand(attention, gate, x, source, 3, pi_init, causal=block == "decoder")
    torch.testing.assert_close(ours, by_hand, atol=1e-5, rtol=1e-4)


def test_cross_attention_can_go_without_gates():
    model = gated_model(cross_gate=False)
    names = {n for n, _ in model.named_parameters() if ".gate." in n}
    assert names and not any("encoder_attn" in n for n in names)


def watched(model):
    """Looks at the inner tensors of all attention blocks, which makes them explicit."""
    sites = model_sites(model)
    return watch(model, sites, {a: lambda x: None for a in sites if a.endswith((".scores", ".probs"))})


def test_explicit_attention_equals_the_fused_kernel():
    model = gated_model()
    fused = logits_of(model, batch=3)
    with watched(model):
        explicit = logits_of(model, batch=3)
    torch.testing.assert_close(explicit, fused, atol=2e-5, rtol=1e-5)


def test_explicit_attention_obeys_a_padding_mask():
    model = gated_model()
    mask = torch.tensor([[1] * 9, [0] * 3 + [1] * 6])

    def run() -> torch.Tensor:
        with torch.no_grad():
            out = model(input_features=features(), decoder_input_ids=decoder_ids(), decoder_attention_mask=mask)
        return out.logits[:, 3:]  # what lies before is padding in the second row

    fused = run()
    with watched(model):
        torch.testing.assert_close(run(), fused, atol=2e-5, rtol=1e-5)


def test_explicit_attention_without_a_mask_is_causal_from_the_last_key():
    attention = gated_model().model.decoder.layers[0].self_attn
    q, k, v = torch.randn(3, 2, 2, 5, 16, generator=torch.Generator().manual_seed(0))
    expected = scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3)
    for new in (5, 3, 1):  # queries; the keys before them come from the cache
        context, probs = explicit_attention(attention, q[:, :, -new:], k, v, None, scaling=0.3)
        torch.testing.assert_close(context.transpose(1, 2), expected[:, :, -new:])
        assert probs.shape == (2, 2, new, 5)


def test_recorded_attentions_and_hidden_states_are_stocks():
    model = gated_model(random_gates=False, attention="eager")
    options = {"input_features": features(), "decoder_input_ids": decoder_ids(), "output_hidden_states": True}
    ours, theirs = (m(**options, output_attentions=True) for m in (model, stock_twin(model, "eager")))
    for name in ("encoder_attentions", "decoder_attentions", "cross_attentions", "encoder_hidden_states"):
        assert len(ours[name]) == len(theirs[name]) > 1
        assert all(torch.equal(a, b) for a, b in zip(ours[name], theirs[name], strict=True))


def test_beam_search_is_stocks():
    model = gated_model(random_gates=False)
    twin = stock_twin(model)
    for network in (model, twin):
        network.generation_config.suppress_tokens = list(range(257, model.config.vocab_size))
    assert torch.equal(model.generate(features(), num_beams=3), twin.generate(features(), num_beams=3))


@torch.no_grad()
def decode(model, ids: torch.Tensor, chunks: list[int]) -> torch.Tensor:
    """Logits of all positions, given to the cache in chunks."""
    encoded = model.model.encoder(features()).last_hidden_state
    cache, logits, start = None, [], 0
    for size in chunks:
        out = model.model.decoder(
            input_ids=ids[:, start : start + size], encoder_hidden_states=encoded, past_key_values=cache, use_cache=True
        )
        cache, start = out.past_key_values, start + size
        logits.append(model.proj_out(out.last_hidden_state))
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("chunks", [[4, 1, 1, 1, 1, 1], [1] * 9, [4, 3, 2]])
@pytest.mark.parametrize("attention", ["sdpa", "eager", "watched"])
@pytest.mark.parametrize("gate", ["headwise", "mlp"])
def test_cached_decoding_equals_uncached(gate, attention, chunks):
    model = gated_model(gate, attention="eager" if attention == "eager" else "sdpa")
    whole = logits_of(model)
    if attention == "watched":
        with watched(model):
            parts = decode(model, decoder_ids(), chunks)
    else:
        parts = decode(model, decoder_ids(), chunks)
    torch.testing.assert_close(parts, whole, atol=3e-5, rtol=1e-5)
    assert torch.equal(parts.argmax(-1), whole.argmax(-1))


@pytest.mark.parametrize("gate", GATED)
@pytest.mark.parametrize("pi_init", [0.5, 0.2])
def test_a_stock_checkpoint_gets_open_gates(gate, pi_init, tmp_path):
    stock = stock_twin(gated_model("none"))
    stock.save_pretrained(tmp_path)
    config = GatedWhisperConfig(gate=gate, gate_init=pi_init, **sizes())
    model, report = GatedWhisperForConditionalGeneration.from_pretrained(
        tmp_path, config=config, output_loading_info=True
    )
    assert report["missing_keys"] and all(".gate." in k for k in report["missing_keys"])
    last = [m for n, m in model.named_modules() if n.endswith("gate.linear")]
    assert last and all(not m.weight.any() for m in last)
    torch.testing.assert_close(torch.sigmoid(last[0].bias), torch.full_like(last[0].bias, pi_init))
    torch.testing.assert_close(logits_of(model.eval()), logits_of(stock), atol=2e-5, rtol=1e-6)


@pytest.mark.parametrize("layers, millions", [(8, 283), (16, 440), (24, 598)])
def test_students_of_large_v2_have_the_papers_trainable_parameters(layers, millions):
    config = GatedWhisperConfig(
        gate="headwise", vocab_size=51865, d_model=1280, encoder_layers=layers, decoder_layers=2,
        encoder_attention_heads=20, decoder_attention_heads=20, encoder_ffn_dim=5120, decoder_ffn_dim=5120,
        max_source_positions=1500, max_target_positions=448, num_mel_bins=80,
    )  # fmt: skip
    model = empty_model(config)
    assert abs(parameter_count(model, trainable=True) / 1e6 - millions) < 1
    assert parameter_count(model) - parameter_count(model, trainable=True) == 1500 * 1280


def test_an_unknown_gate_is_named():
    with pytest.raises(ValueError, match="'tanh'.*headwise"):
        gated_model("tanh")
