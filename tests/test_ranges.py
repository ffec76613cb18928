"""The penalty on ranges against direct computation, and its place in a training step."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from support.tiny import gated_model
from support.training_batch import CODEC, batch, gradients

from whisperq.data.tokens import IGNORED
from whisperq.errors import UsageError
from whisperq.models.sites import model_sites, watch
from whisperq.preconditions import check_ranges
from whisperq.training.loop import Distiller
from whisperq.training.ranges import SHARPNESS, Ranges, soft_peak
from whisperq.training_options import DistillConfig


def direct(values: np.ndarray) -> float:
    values = values.astype(np.float64).ravel()
    return float(logsumexp(SHARPNESS * np.abs(values - values.mean()) / values.std()) / SHARPNESS)


def make_distiller(weight: float | None = 0.3, **changes) -> Distiller:
    student, teacher = gated_model("headwise", seed=1), gated_model("none", seed=2)
    config = DistillConfig(**{"range_weight": weight, "warmup_steps": 0, "max_steps": 10} | changes)
    return Distiller(student, teacher, config, torch.float32, 0)


def test_a_soft_peak_is_the_peak_over_the_standard_deviation():
    x = torch.randn(3, 11, 8, generator=torch.Generator().manual_seed(0))
    x[1, 4, 2] = 90.0
    found = soft_peak(x)
    expected = [direct(one.numpy()) for one in x]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    peaks = [float((one - one.mean()).abs().max() / one.std(correction=0)) for one in x]
    assert all(peak <= soft <= peak + np.log(88) / SHARPNESS for peak, soft in zip(peaks, found.tolist(), strict=True))
    assert found[1] == pytest.approx(peaks[1], rel=1e-3)


def test_padding_has_no_part_in_a_soft_peak():
    x = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0))
    x[0, 5:], used = 1e3, torch.ones(2, 9, dtype=torch.bool)
    used[0, 5:] = False
    expected = [direct(x[0, :5].numpy()), direct(x[1].numpy())]
    assert soft_peak(x, used).tolist() == pytest.approx(expected, rel=1e-5)


def test_a_soft_peaks_gradient_is_that_of_differences():
    x = torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    soft_peak(x).sum().backward()
    for place in ((0, 0, 0), (0, 3, 1), (0, 4, 2)):
        moved = [x.detach().numpy().astype(np.float64).copy() for _ in range(2)]
        moved[0][place] += 1e-5
        moved[1][place] -= 1e-5
        assert x.grad[place].item() == pytest.approx((direct(moved[0]) - direct(moved[1])) / 2e-5, abs=1e-4)


def plain(x: torch.Tensor, used: torch.Tensor | None) -> torch.Tensor:
    """In PyTorch's own operations and float64, with PyTorch's gradient."""
    found = []
    for one, mask in zip(x.double(), [slice(None)] * len(x) if used is None else used, strict=True):
        values = one[mask].flatten()
        apart = (values - values.mean()).abs() / values.std(correction=0)
        found.append((SHARPNESS * apart).logsumexp(dim=0) / SHARPNESS)
    return torch.stack(found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", ["all", "padded", "massive", "far from zero"])
def test_a_soft_peak_and_its_gradient_are_those_of_pytorch(case, dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 50, 24, generator=generator)
    used = torch.arange(50) < torch.tensor([[50], [7], [23]]) if case == "padded" else None
    if case == "padded":
        x[1, 9:] = 1e30  # not even this
    x[0, 3, 5] = {"massive": 3e3}.get(case, 4.0)
    ours, theirs = ((x + 10 * (case == "far from zero")).to(dtype).requires_grad_() for _ in range(2))
    weights = torch.tensor([0.5, 2.0, -1.0])
    found, expected = soft_peak(ours, used), plain(theirs, used)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    assert ours.grad.dtype == dtype
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4 if dtype == torch.float32 else 1e-2, atol=1e-6)


def test_a_signal_that_stands_still_has_no_peak_and_no_gradient():
    x = torch.full((2, 6, 4), 3.0).requires_grad_()
    soft_peak(x).sum().backward()
    assert not x.grad.any() and soft_peak(x).tolist() == pytest.approx([np.log(24) / SHARPNESS] * 2)


def test_of_a_site_nothing_but_its_own_tensor_is_kept():
    x, kept = torch.randn(2, 40, 16).requires_grad_(), []
    y = x * 2
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        soft_peak(y)
    assert [t.numel() for t in kept if t.data_ptr() != y.data_ptr()] == [2] * 5


def test_the_penalty_of_a_step_is_the_mean_over_sites_and_windows():
    distiller, data = make_distiller(), batch()
    student, lengths = distiller.student, data.tokens.lengths
    sites = model_sites(student)
    chosen = [a for a in sites if a[:4] in ("enc.", "dec.") and a.split(".")[1].isdigit()]
    chosen = [a for a in chosen if a.split(".")[-1] not in ("scores", "probs", "gate")]
    assert Ranges(student).sites == chosen and len(chosen) == 2 * 12 + 2 * 19
    seen: dict[str, list[float]] = {}

    def see(address: str):
        def keep(x: torch.Tensor) -> None:
            seen[address] = [direct(one.numpy()) for one in sites[address].utterances(x, data.lengths)]

        return keep

    with torch.no_grad(), watch(student, sites, {a: see(a) for a in chosen}):
        student(**data.inputs(torch.float32, "cpu"))
    windows = np.mean([seen[a] for a in chosen], axis=0)
    expected = float((windows * lengths).sum() / sum(lengths))
    plain, found = make_distiller(None).step(0, [data]).read(), distiller.step(0, [data]).read()
    assert found.as_dict()["range"] == pytest.approx(expected, rel=1e-4)
    assert (found.ce, found.kl) == pytest.approx((plain.ce, plain.kl), rel=1e-5) and "range" not in plain.as_dict()
    assert found.loss == pytest.approx(plain.loss + 0.3 * expected, rel=1e-4)


def test_micro_batches_and_padding_change_no_penalty():
    one, other = make_distiller(), make_distiller()
    parts = [batch(0, 1), batch(1, 4)]
    tokens = parts[0].tokens
    padded = replace(
        tokens,
        inputs=torch.nn.functional.pad(tokens.inputs, (0, 5), value=7),
        labels=torch.nn.functional.pad(tokens.labels, (0, 5), value=IGNORED),
    )
    expected = one.step(0, [batch()]).read().as_dict()
    found = other.step(0, [replace(parts[0], tokens=padded), parts[1]]).read().as_dict()
    assert found == pytest.approx(expected, rel=1e-4)
    for name, gradient in gradients(other).items():
        torch.testing.assert_close(gradient, gradients(one)[name], atol=1e-6, rtol=1e-3, msg=name)


def test_the_penalty_falls_when_it_is_all_there_is_to_learn():
    distiller = make_distiller(1.0, ce_weight=1e-9, kl_weight=0.0, learning_rate=3e-3, max_steps=1000)
    found = [distiller.step(i, [batch()]).read().extra["range"] for i in range(8)]
    assert found[-1] < 0.95 * found[0]


def test_a_silence_that_teaches_nothing_has_no_penalty():
    distiller, tokens = make_distiller(), CODEC.pad([CODEC.encode("")])
    silent = replace(tokens, labels=torch.full_like(tokens.labels, IGNORED))
    data = batch()
    empty = replace(data, features=data.features[:1], tokens=silent, utterances=())
    expected = make_distiller().step(0, [data]).read().as_dict()
    assert distiller.step(0, [empty, data]).read().as_dict() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["compile", "recompute"])
def test_what_hides_tensors_is_refused(name):
    with pytest.raises(UsageError, match=f"--range-weight .* --{name} hides"):
        check_ranges(DistillConfig(range_weight=0.1, **{name: True}))
