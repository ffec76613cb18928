"""Learned grids, the choice among them, and the allocation of bits: against torch and direct computations."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.learned_step_size import lsq

from whisperq.quant.allocation import TOLERANCE, allocate, mean_bits, spread
from whisperq.quant.clipping import mse_weight_qparams
from whisperq.quant.grid import fake_quantize
from whisperq.quant.gumbel import gumbel_noise, priced, relaxed, temperature
from whisperq.quant.learned import initial_scales, mixture, relative_errors, symmetric_qparams

WIDTHS = (2, 3, 4, 6, 8)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


SHAPES = [((6, 5), 1), ((4, 3, 5), 1), ((2, 3, 7), 2)]


@pytest.mark.parametrize("shape, dims", SHAPES)
@pytest.mark.parametrize("chosen", range(5))
def test_a_chosen_width_is_the_grids_fake_quantization(shape, dims, chosen):
    weight = drawn(*shape)
    scales = initial_scales(weight, WIDTHS, dims)
    found = mixture(weight, scales, torch.eye(5)[chosen], WIDTHS)
    expected = mse_weight_qparams(weight, WIDTHS[chosen], symmetric=True, channel_dims=dims)
    assert torch.equal(found, fake_quantize(weight, expected))
    assert found.unique().numel() > 1


@pytest.mark.parametrize("shape, dims", SHAPES)
def test_gradients_are_autograds_of_the_papers_pseudo_code(shape, dims):
    weight, probabilities = drawn(*shape).requires_grad_(), torch.softmax(drawn(5, seed=1), 0).requires_grad_()
    scales = (initial_scales(weight.detach(), WIDTHS, dims) * 0.8).requires_grad_()
    pull = drawn(*shape, seed=2)
    inputs = (weight, scales, probabilities)
    found = mixture(*inputs, WIDTHS)
    expected = sum(p * lsq(weight, s, b) for p, s, b in zip(probabilities, scales, WIDTHS, strict=True))
    torch.testing.assert_close(found, expected)
    ours, theirs = (torch.autograd.grad(y, inputs, pull) for y in (found, expected))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("bits", WIDTHS)
def test_gradients_are_those_of_torchs_learnable_operator(bits):
    """Which calls inside what rounds into the grid, so that no value may lie between n and n + 1/2."""
    greatest = 2 ** (bits - 1) - 1
    scale = torch.tensor([0.11, 0.2, 0.05, 0.4])
    real = drawn(4, 40) * greatest
    real = torch.where((real.abs() >= greatest) & (real.abs() <= greatest + 0.5), real * 0.4, real)
    weight, pull = (real * scale[:, None]).requires_grad_(), drawn(4, 40, seed=3)
    ours = scale.reshape(1, 4, 1).clone().requires_grad_()
    theirs, factor = scale.clone().requires_grad_(), (40 * greatest) ** -0.5
    found = torch.autograd.grad(mixture(weight, ours, torch.ones(1), (bits,)), (weight, ours), pull)
    learnable = torch._fake_quantize_learnable_per_channel_affine
    expected = learnable(weight, theirs, torch.zeros(4), 0, -greatest, greatest, factor)
    expected = torch.autograd.grad(expected, (weight, theirs), pull)
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[1].flatten(), expected[1], atol=1e-5, rtol=1e-4)


def test_what_is_improbable_is_not_computed():
    weight, scales = drawn(3, 4), torch.full((2, 3, 1), 0.1)
    scales[0] = float("nan")
    assert torch.isfinite(mixture(weight, scales, torch.tensor([0.0, 1.0]), (2, 4))).all()


@pytest.mark.parametrize("tau", [0.1, 1.0, 5.0])
def test_gumbel_softmax_is_torchs_with_the_same_noise(tau):
    logits = drawn(7, 5)
    torch.manual_seed(4)
    expected = F.gumbel_softmax(logits, tau=tau)
    torch.manual_seed(4)
    noise = -torch.empty_like(logits).exponential_().log()
    torch.testing.assert_close(relaxed(logits, tau, noise), expected)
    torch.testing.assert_close(relaxed(logits, tau), torch.softmax(logits / tau, -1))


def test_gumbel_noise_has_its_moments_and_chooses_by_the_probabilities():
    noise = gumbel_noise((200_000, 3), torch.Generator().manual_seed(0))
    assert torch.isfinite(noise).all()
    assert noise.mean() == pytest.approx(np.euler_gamma, abs=0.01)
    assert noise.var() == pytest.approx(math.pi**2 / 6, rel=0.01)
    probabilities = torch.tensor([0.2, 0.5, 0.3])
    winners = torch.bincount((probabilities.log() + noise).argmax(-1), minlength=3) / len(noise)
    torch.testing.assert_close(winners, probabilities, atol=0.005, rtol=0)
    assert torch.equal(noise[:5], gumbel_noise((200_000, 3), torch.Generator().manual_seed(0))[:5])


def test_the_temperature_falls_by_one_factor():
    values = [temperature(i / 4, 2.0, 0.125) for i in range(5)]
    assert values == pytest.approx([2, 1, 0.5, 0.25, 0.125]) and temperature(1.5, 2.0, 0.125) == 0.125


@pytest.mark.parametrize("target", [2.3, 3.5, 7.9])
@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_the_price_of_a_bit_keeps_the_mean_at_the_target(target, tau):
    """Whatever the logits, and with sizes that differ a thousandfold."""
    sizes, bits = torch.tensor([1e6, 3e5, 2e5, 1e3]), torch.tensor(WIDTHS, dtype=torch.float32)
    logits, price = priced(drawn(4, 5) * 3, sizes / sizes.mean(), WIDTHS, target, tau)
    mean = sizes @ (relaxed(logits, tau) @ bits) / sizes.sum()
    assert mean.item() == pytest.approx(target, abs=1e-3)
    torch.testing.assert_close(logits, drawn(4, 5) * 3 - price * (sizes / sizes.mean())[:, None] * bits)


def test_the_prices_derivative_is_that_of_its_definition():
    """By differences: the price is a function of the logits."""
    relative, direction = torch.tensor([1.5, 1.0, 0.5]), drawn(3, 5, seed=1)
    logits = drawn(3, 5).double().requires_grad_()

    def total(a):
        return (priced(a, relative, WIDTHS, 3.5, 0.7)[0].sin() * direction).sum()

    (gradient,) = torch.autograd.grad(total(logits), logits)
    for place in ((0, 0), (1, 3), (2, 4)):
        step = torch.zeros(3, 5, dtype=torch.float64)
        step[place] = 1e-4
        with torch.no_grad():
            slope = (total(logits + step) - total(logits - step)) / 2e-4
        assert slope.item() == pytest.approx(gradient[place].item(), rel=1e-3, abs=1e-5)


def test_relative_errors_are_what_is_lost_of_the_square():
    weight = drawn(6, 50)
    scales = initial_scales(weight, WIDTHS, 1)
    found = relative_errors(weight, scales, WIDTHS)
    lost = ((lsq(weight, scales[1], 3) - weight) ** 2).sum() / (weight**2).sum()
    assert found[1].item() == pytest.approx(lost.item(), rel=1e-4)
    assert (found.diff() < 0).all() and relative_errors(torch.zeros(2, 3), torch.ones(5, 2, 1), WIDTHS).max() == 0


@pytest.mark.parametrize("seed", range(5))
def test_an_allocation_is_the_cheapest_of_all(seed):
    random = np.random.default_rng(seed)
    sizes = [int(n) for n in random.integers(50, 900, 6)]
    costs = random.exponential(size=(6, 4))
    widths, target = (2, 3, 4, 8), float(random.uniform(2.6, 6))
    choice = allocate(costs, sizes, widths, target)

    def cost(chosen):
        return sum(costs[i, k] for i, k in enumerate(chosen))

    def mean(chosen):
        return sum(n * widths[k] for n, k in zip(sizes, chosen, strict=True)) / sum(sizes)

    allowed = [c for c in itertools.product(range(4), repeat=6) if target - 0.05 <= mean(c) <= target]
    assert mean_bits(choice, sizes, widths) == pytest.approx(mean(choice)) and tuple(choice) in allowed
    assert cost(choice) <= min(map(cost, allowed)) * 1.02 + 1e-9  # one partial choice for each 1/8192 of the sizes


def test_no_allocation_where_none_meets_the_target():
    assert allocate(np.zeros((2, 2)), [1000, 10], (4, 8), 6.0) is None
    assert allocate(np.zeros((2, 2)), [10, 10], (4, 8), 6.0) is not None


@pytest.mark.parametrize("widths", [(2, 3, 4, 6, 8), (4, 8)])
def test_at_the_lowest_width_every_layer_has_it_whatever_it_costs(widths):
    """Many small layers share one of the 8,192 parts with their dearer widths, which cost less here."""
    sizes = [10_000_000] + [64] * 40
    costs = np.tile(np.linspace(1, 0, len(widths)), (len(sizes), 1))
    assert allocate(costs, sizes, widths, widths[0]) == [0] * len(sizes)


def test_hundreds_of_layers_of_a_large_model():
    random = np.random.default_rng(0)
    sizes = [1024 * 1024] * 192 + [4 * 1024 * 1024] * 96 + [51865 * 1024]
    choice = allocate(random.exponential(size=(289, 5)), sizes, WIDTHS, 3.5)
    assert 3.5 - TOLERANCE <= mean_bits(choice, sizes, WIDTHS) <= 3.5


@pytest.mark.parametrize("target, used", [(3.5, {3, 4}), (4, {4}), (5, {4, 6})])
def test_uniform_takes_the_neighbours_of_the_target(target, used):
    sizes = [900, 300, 300, 500, 70, 40, 300, 200, 120, 10, 64, 23]
    choice = allocate(spread(sizes, WIDTHS, target), sizes, WIDTHS, target)
    assert {WIDTHS[k] for k in choice} == used
    assert target - TOLERANCE <= mean_bits(choice, sizes, WIDTHS) <= target


def test_symmetric_grids_have_no_lowest_code():
    grid = symmetric_qparams(torch.ones(1), 2)
    assert (grid.quant_min, grid.quant_max, int(grid.zero_point)) == (-1, 1, 0)
