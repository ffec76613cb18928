"""How many bits each layer gets without learning it: the two baselines of mixed precision.

two-stage  before any training, each weight alone is quantized to each width, and

               cost[l, k] = sum KL(p_float || p_quantized)       over the labelled tokens, or frames, of some batches

           measured on teacher-forced logits; the cheapest choice that meets the target is kept (`quant.allocation`).
uniform    one width for all layers, or the target's two neighbours, mixed without looking at the layers.

The paper (arXiv 2501.03643) does not publish its baselines' search; both are ours.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import nn

from whisperq.data.batches import Batch, teacher_forced
from whisperq.errors import Interrupted, UsageError
from whisperq.quant.allocation import TOLERANCE, allocate, spread
from whisperq.quant.grid import fake_quantize
from whisperq.quant.learned import symmetric_qparams
from whisperq.training.distributed import Processes
from whisperq.training.losses import kl_sum
from whisperq.training.mixed import MixedWeights, feasible
from whisperq.training_options import MixedPrecisionConfig


def parse_widths(text: str) -> list[int]:
    """ "2,3,4" as widths, the least first. Raises UsageError."""
    try:
        widths = sorted({int(item) for item in text.split(",")})
    except ValueError:
        raise UsageError(f"--bits must be numbers joined by commas, such as 2,3,4,6,8, not {text!r}") from None
    if widths[0] < 2 or widths[-1] > 8:
        raise UsageError(f"--bits are bit-widths of 2 to 8, not {text}")
    return widths


def check_search(config: MixedPrecisionConfig) -> None:
    """Raises UsageError for a target that no choice of these widths has, or a tail that leaves nothing to search."""
    widths = parse_widths(config.bits)
    if not widths[0] <= config.target_bits <= widths[-1]:
        raise UsageError(f"--target-bits {config.target_bits:g} lies outside of --bits {config.bits}")
    if config.finetune_steps is not None and config.mode != "one-stage":
        raise UsageError(f"--finetune-steps is for --mode one-stage: {config.mode} trains at fixed widths throughout")
    if (config.finetune_steps or 0) >= config.max_steps:
        raise UsageError(f"--finetune-steps {config.finetune_steps} leaves no step of --max-steps {config.max_steps}")
    if config.mode == "one-stage" and config.gumbel_last > config.gumbel_first:
        raise UsageError("--gumbel-last must not exceed --gumbel-first: the temperature falls")


def check_target(weights: MixedWeights) -> None:
    """Raises UsageError where the layers are so few or unlike that no choice comes near the target."""
    free = np.zeros((len(weights.sizes), len(weights.widths)))
    if allocate(free, weights.sizes, weights.widths, weights.target) is None:
        raise UsageError(
            f"no choice of {weights.widths} bits for this model's {len(weights.sizes)} weights has a mean "
            f"of {weights.target - TOLERANCE:g} to {weights.target:g} bits; give more --bits, or another --target-bits"
        )


def uniform_choice(weights: MixedWeights) -> list[int]:
    return feasible(spread(weights.sizes, weights.widths, weights.target), weights)


def sensitive_choice(
    network: nn.Module,
    weights: MixedWeights,
    batches: Sequence[Batch],
    processes: Processes,
    told: Callable[[], bool],
    advance: Callable[[str], None] = lambda word: None,
) -> list[int]:
    """The two-stage baseline's; each process measures its share of the batches, and all agree.

    told: whether by a signal to stop; then Interrupted is raised, and nothing of the search is kept.
    """
    mine = sensitivities(network, weights, processes.share(batches), told, advance)
    if processes.any(told()):
        raise Interrupted("told to stop while looking for widths, before the first step: the same command begins anew")
    return processes.gather(feasible(sum(processes.gather(mine)), weights))[0]


@torch.inference_mode()
def sensitivities(
    network: nn.Module,
    weights: MixedWeights,
    batches: Iterable[Batch],
    told: Callable[[], bool] = lambda: False,
    advance: Callable[[str], None] = lambda word: None,
) -> np.ndarray:
    """costs (layers, widths): KL in nats that each weight causes alone; the network is left as it was.

    told: asked before each weight of each batch; where it says so, the rest is left out.
    advance: called after each weight of each batch, with its address.
    """
    costs = np.zeros((len(weights.layers), len(weights.widths)))
    network.eval()
    for batch in batches:
        exact = batch.counted(teacher_forced(network, batch, network.device)).float()
        for row, layer in zip(costs, weights.layers, strict=True):
            if told():
                return costs
            for k, bits in enumerate(weights.widths):
                grid = symmetric_qparams(layer.log_scales[k].exp(), bits)
                layer.network.copy_(fake_quantize(layer.latent, grid))
                found = batch.counted(teacher_forced(network, batch, network.device)).float()
                row[k] += float(kl_sum(found, exact, 1.0))
            layer.network.copy_(layer.latent)
            advance(layer.site.address)
    return costs
