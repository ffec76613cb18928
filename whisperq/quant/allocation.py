"""Which layer gets how many bits: the cheapest choice whose mean width meets a target.

    min over k(1..L) of sum_l cost[l, k(l)]   so that   target - tolerance <= sum_l n_l b_k(l) / sum_l n_l <= target

n_l: values of layer l; b: widths; cost: what a width costs a layer, such as the KL divergence that it alone causes,
or the negative logarithm of a learned probability. A knapsack, solved layer by layer: of all partial choices whose
sizes fall into one of 8,192 equal parts the cheapest is kept, with its exact size. Ours; neither the paper's search
nor that of its two-stage baseline is published.
"""

from collections.abc import Sequence

import numpy as np

TOLERANCE = 0.05  # bits
PARTS = 8192
EXACT = 1e-9


def allocate(costs: np.ndarray, sizes: Sequence[int], widths: Sequence[int], target: float) -> list[int] | None:
    """costs (layers, widths) -> the width's index for each layer; None where no choice meets the target."""
    bits, total = np.asarray(widths, dtype=np.float64), float(sum(sizes))
    part = total * max(widths) / PARTS
    used, spent = np.zeros(1), np.zeros(1)  # bits of all layers so far, and their cost; one entry for each part in use
    steps: list[tuple[np.ndarray, np.ndarray]] = []
    for cost, size in zip(np.asarray(costs, dtype=np.float64), sizes, strict=True):
        new_used = (used[:, None] + size * bits[None]).ravel()
        new_spent = (spent[:, None] + cost[None]).ravel()
        places = np.floor(new_used / part)
        # Of each part the cheapest choice, and the smallest: without that, small layers' dear widths end what fits.
        best = (_firsts(places, np.lexsort((*keys, places))) for keys in ((new_used, new_spent), (new_used,)))
        kept = np.unique(np.concatenate(list(best)))
        steps.append((kept // len(bits), kept % len(bits)))
        used, spent = new_used[kept], new_spent[kept]
    mean = used / total
    fits = np.flatnonzero((mean <= target + EXACT) & (mean >= target - TOLERANCE - EXACT))
    if not len(fits):
        return None
    return _traced(steps, fits[np.argmin(spent[fits])])


def _firsts(places: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Indices of the first entry of each place; `order` sorts the entries by place."""
    ordered = places[order]
    return order[np.concatenate([[True], ordered[1:] != ordered[:-1]])]


def _traced(steps: list[tuple[np.ndarray, np.ndarray]], end: int) -> list[int]:
    """Chosen width of each layer, found by following the entries from the last layer back to the first."""
    choice = []
    for before, width in reversed(steps):
        choice.append(int(width[end]))
        end = before[end]
    return choice[::-1]


def spread(sizes: Sequence[int], widths: Sequence[int], target: float) -> np.ndarray:
    """Costs (layers, widths) of a uniform width, where there is one; else of its two neighbours, mixed blindly.

    Layers in order of size, the largest first, get whichever width leaves the mean so far nearer the target; a
    layer that must leave this choice for the other neighbour to meet the target costs one, another width a thousand.
    """
    low, high = max(w for w in widths if w <= target), min(w for w in widths if w >= target)
    costs = np.full((len(sizes), len(widths)), 1000.0)
    used = seen = 0.0
    for layer in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        size, seen = sizes[layer], seen + sizes[layer]
        chosen = min((low, high), key=lambda width: abs(used + width * size - target * seen))
        used += chosen * size
        costs[layer, [widths.index(low), widths.index(high)]] = 1.0
        costs[layer, widths.index(chosen)] = 0.0
    return costs


def mean_bits(choice: Sequence[int], sizes: Sequence[int], widths: Sequence[int]) -> float:
    return sum(n * widths[k] for k, n in zip(choice, sizes, strict=True)) / sum(sizes)
