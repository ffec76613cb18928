"""How many bits each layer gets without learning it: the two baselines of mixed precision.

two-stage  before any training, each weight alone is quantized to each width, and

               cost[l, k] = sum KL(p_float || p_quantized)       over the labelled tokens, or frames, of some batches

           measured on teacher-forced logits; the cheapest choice that meets the target is kept (`quant.allocation`).
uniform    one width for all layers, or the target's two neighbours, mixed without looking at the layers.

The paper (arXiv 2501.03643) does not publish its baselines' search; both are ours.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from whisperq.data.batches import Batch, teacher_forced
from whisperq.errors import Interrupted, UsageError
from whisperq.jobs.distributed import Processes
from whisperq.jobs.journal import Journal, appending, whole_lines
from whisperq.quant.allocation import TOLERANCE, allocate, spread
from whisperq.quant.grid import fake_quantize
from whisperq.quant.learned import symmetric_qparams
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


@dataclass(frozen=True)
class Cost:
    """KL in nats that a weight causes alone in a batch, at each width."""

    batch: int
    address: str
    kl: list[float]


class SearchBook(Journal):
    """The costs so far, beside the place where the result will lie: a search longer than a job goes on in the next.

    NAME-partial/search-<rank>.jsonl  what one process has measured
    """

    def __init__(self, out: Path, config: Mapping[str, Any], inputs: Mapping[str, Mapping[str, str]]) -> None:
        super().__init__(out, config, inputs, "measurements", "search-*.jsonl")

    def costs(self) -> list[Cost]:
        return [cost for path in self.files() for cost in whole_lines(path, Cost)[0]]

    def writing(self, rank: int) -> AbstractContextManager[Callable[[Sequence[Cost]], None]]:
        return appending(self.folder / f"search-{rank}.jsonl", Cost)


def sensitive_choice(
    network: PreTrainedModel,
    weights: MixedWeights,
    batches: Sequence[Batch],
    processes: Processes,
    told: Callable[[], bool],
    book: SearchBook,
    advance: Callable[[str], None] = lambda word: None,
) -> list[int]:
    """The two-stage baseline's; each process measures its share of the batches, and all agree.

    told: whether to stop; then Interrupted is raised, and the same command measures what is left.
    """
    if processes.main:
        book.prepare()
    processes.wait()
    known = {(cost.batch, cost.address): cost for cost in book.costs()}
    processes.wait()  # nobody writes before all have read
    own = processes.share(list(enumerate(batches)))
    with book.writing(processes.rank) as keep:
        for cost in costs_of(network, weights, own, known.keys(), told, advance):
            keep([cost])
            known[cost.batch, cost.address] = cost
    found = {key: cost for part in processes.gather(known) for key, cost in part.items()}
    if left := len(batches) * len(weights.layers) - len(found):
        raise Interrupted(
            f"told to stop while looking for widths: {left:,} of {len(found) + left:,} measurements are left, "
            "the same command goes on with them"
        )
    return feasible(added_up(found.values(), weights), weights)


def added_up(costs: Iterable[Cost], weights: MixedWeights) -> np.ndarray:
    """Costs (layers, widths) over all batches, summed in a fixed order, since float sums depend on the order."""
    rows: dict[str, list[list[float]]] = {}
    for cost in sorted(costs, key=lambda cost: cost.batch):
        rows.setdefault(cost.address, []).append(cost.kl)
    return np.array([np.sum(rows[layer.site.address], axis=0) for layer in weights.layers])


def costs_of(
    network: PreTrainedModel,
    weights: MixedWeights,
    batches: Iterable[tuple[int, Batch]],
    known: Collection[tuple[int, str]] = (),
    told: Callable[[], bool] = lambda: False,
    advance: Callable[[str], None] = lambda word: None,
) -> Iterator[Cost]:
    """Cost of each weight quantized alone, in each numbered batch; the network is left as it was.

    known: (batch, address) pairs that need not be measured. told: asked after each measurement, so that a job without
    time has one, too; if true, the rest is left out. advance: called after each weight of each batch, with its address.
    """
    network.eval()
    for number, batch in batches:
        missing = {layer.site.address for layer in weights.layers} - {a for n, a in known if n == number}
        exact: torch.Tensor | None = None
        for layer in weights.layers:
            address = layer.site.address
            if address in missing:
                exact = _predicted(network, batch) if exact is None else exact
                yield Cost(number, address, _cost(network, weights, layer, batch, exact))
                if told():
                    return
            advance(address)


@torch.inference_mode()
def _cost(
    network: PreTrainedModel, weights: MixedWeights, layer: Any, batch: Batch, exact: torch.Tensor
) -> list[float]:
    found = []
    for k, bits in enumerate(weights.widths):
        grid = symmetric_qparams(layer.log_scales[k].exp(), bits)
        layer.network.copy_(fake_quantize(layer.latent, grid))
        found.append(float(kl_sum(_predicted(network, batch), exact, 1.0)))
    layer.network.copy_(layer.latent)
    return found


@torch.inference_mode()
def _predicted(network: PreTrainedModel, batch: Batch) -> torch.Tensor:
    return batch.counted(teacher_forced(network, batch, network.device)).float()
