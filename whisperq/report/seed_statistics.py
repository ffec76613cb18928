"""A figure of several seeds as one cell: their mean, its 95 % interval (Student's t), whether it is the least."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from whisperq.report.gathering import Entry
from whisperq.report.report_tables import Cell
from whisperq.scoring.two_way_bootstrap import t_interval

Values = Mapping[int | None, float]  # by seed


def seeds_cell(
    mine: Values, rivals: Sequence[Values], sources: Sequence[Entry], written: Callable[[float], str] = "{:.2f}".format
) -> Cell:
    """rivals: of what differs in its gate alone; bold where the paired interval to each of them lies below zero."""
    if not mine:
        return Cell("undefined", sources=tuple(sources))
    ends = t_interval(list(mine.values()))
    note = f"{written(ends[0])}\u2013{written(ends[1])}" if ends else "one seed"
    bold = bool(rivals) and all(_surely_below(mine, rival) for rival in rivals)
    return Cell(written(fmean(mine.values())), note, tuple(sources), bold)


def _surely_below(mine: Values, theirs: Values) -> bool:
    """Whether the paired 95 % interval of mine - theirs, over the seeds that both have, lies below zero."""
    ends = t_interval([mine[s] - theirs[s] for s in mine if s in theirs])
    return ends is not None and ends[1] < 0
