"""The attention that is trained, and its gradients, against PyTorch's in float32."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from whisperq.training import attention
from whisperq.training.attention import NAME, LearnedAttention, attention_kernel, learned_attention

needs_kernels = pytest.mark.skipif(
    attention._kernels() is None, reason="no kernels for bf16 here, or PyTorch's are used"
)
ENCODER = SimpleNamespace(is_causal=False, training=True)


def tensors(length: int, keys: int, dim: int, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)
    sizes = (length, keys, keys)
    found = [scale * torch.randn(2, 3, size, dim, generator=generator) for size in sizes]
    return [x.bfloat16().requires_grad_() for x in found]


def reference(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """(batch, length, heads, head_dim), in float64."""
    probs = torch.softmax(scaling * query @ key.transpose(2, 3), dim=-1)
    return (probs @ value).transpose(1, 2)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).detach().norm() / expected.detach().norm())


@needs_kernels
@pytest.mark.parametrize(
    "length, keys, dim, scale",
    [(64, 64, 64, 1.0), (100, 100, 32, 1.0), (37, 150, 64, 3.0), (1, 1, 32, 1.0), (129, 65, 128, 8.0)],
)
def test_result_and_gradients_are_those_of_the_formula(length, keys, dim, scale):
    """bf16 keeps eight digits; a sum of a few dozen of them is off by half a percent."""
    found = tensors(length, keys, dim, scale)
    exact = [x.detach().double().requires_grad_() for x in found]
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(2, length, 3, dim, generator=generator).bfloat16()
    out, expected = LearnedAttention.apply(*found, dim**-0.5), reference(*exact, dim**-0.5)
    assert out.shape == expected.shape and relative(out, expected) < 0.01
    out.backward(grad)
    expected.backward(grad.double())
    if keys > 1:  # of one key the probability is one, whatever the query
        assert relative(found[0].grad, exact[0].grad) < 0.02 and relative(found[1].grad, exact[1].grad) < 0.02
    assert relative(found[2].grad, exact[2].grad) < 0.01


@needs_kernels
def test_it_is_as_near_to_the_formula_as_pytorchs_own():
    found, own = tensors(200, 200, 64, 2.0), tensors(200, 200, 64, 2.0)
    exact = [x.detach().double().requires_grad_() for x in found]
    grad = torch.randn(2, 200, 3, 64, generator=torch.Generator().manual_seed(1)).bfloat16()
    LearnedAttention.apply(*found, 0.125).backward(grad)
    torch.nn.functional.scaled_dot_product_attention(*own, scale=0.125).transpose(1, 2).backward(grad)
    reference(*exact, 0.125).backward(grad.double())
    for ours, theirs, expected in zip(found, own, exact, strict=True):
        assert relative(ours.grad, expected.grad) < 1.5 * relative(theirs.grad, expected.grad) + 1e-4


@needs_kernels
def test_scores_far_below_zero_leave_finite_gradients():
    """Places behind the last key have a score of zero, two to the power of 300 more than these."""
    found = tensors(70, 70, 32)
    with torch.no_grad():
        found[0].add_(6)
        found[1].sub_(6)
    LearnedAttention.apply(*found, 32**-0.5).sum().backward()
    assert all(torch.isfinite(x.grad).all() for x in found)


@needs_kernels
def test_equal_inputs_give_equal_bits():
    ends = []
    for _ in range(2):
        found = tensors(150, 150, 64)
        LearnedAttention.apply(*found, 0.125).sum().backward()
        ends.append([x.grad for x in found])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


@needs_kernels
def test_only_what_is_long_and_has_no_mask_goes_there(monkeypatch):
    calls = []
    monkeypatch.setattr(LearnedAttention, "apply", lambda *a: calls.append(a) or a[0].transpose(1, 2))
    long, short = tensors(800, 800, 32), tensors(40, 800, 32)
    mask = torch.zeros(2, 1, 800, 800, dtype=torch.bfloat16)
    causal = SimpleNamespace(is_causal=True, training=True)
    for module, parts, given in ((ENCODER, short, None), (ENCODER, long, mask), (causal, long, None)):
        out, _ = learned_attention(module, *parts, given, scaling=1.0)
        assert out.shape == parts[0].transpose(1, 2).shape and not calls
    learned_attention(ENCODER, *(x.float() for x in long), None, scaling=1.0)
    assert not calls
    learned_attention(ENCODER, *long, None, scaling=1.0)
    assert len(calls) == 1


def test_short_windows_and_gpus_keep_their_attention(monkeypatch):
    assert attention_kernel("cpu", 50) == "eager" and attention_kernel("cuda", 1500) == "sdpa"
    monkeypatch.setattr(attention, "_loaded", [None])
    assert attention_kernel("cpu", 1500) == "sdpa"
    monkeypatch.setattr(attention, "_loaded", [object()])
    assert attention_kernel("cpu", 1500) == NAME
