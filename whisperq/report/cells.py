"""What the cells of a printed table are made of, and the same table as Markdown."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text


def table(title: str, *columns: str) -> Table:
    """Text to the left, numbers (columns that begin with #) to the right. The title may hold names: no markup."""
    result = Table(title=Text(title, style="table.title"), title_justify="left")
    for column in columns:
        result.add_column(column.lstrip("#"), justify="right" if column.startswith("#") else "left")
    return result


def figure(value: Any, digits: int = 2) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.2f} %"


def megabytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB"


def markdown(tables: Sequence[Table]) -> str:
    """Each table below its title."""
    return "\n".join(_markdown(one) for one in tables)


def _markdown(one: Table) -> str:
    rows = [[str(column.header) for column in one.columns]]
    rows.append(["---:" if column.justify == "right" else "---" for column in one.columns])
    rows += [list(row) for row in zip(*(map(_cell, column.cells) for column in one.columns), strict=True)]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"**{one.title}**", "", *lines, ""])


def _cell(content: Any) -> str:
    return str(content).replace("|", "\\|").replace("\n", " ")
