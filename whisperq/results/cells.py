"""What the cells of a printed table are made of, and the same table as Markdown.

Text from outside is never markup, neither Rich's nor HTML's nor Markdown's: `plain`, `html` and `markdown_text` are the
three ways in which it is shown.
"""

import re
from collections.abc import Sequence
from html import escape
from typing import Any

from rich.table import Table
from rich.text import Text

from whisperq.names import printable

MOST_DIGITS = 6  # behind the point, of a difference: smaller ones are errors of rounding


class PlainTable(Table):
    """A table whose cells are text as it is."""

    def add_row(self, *cells: Any, **settings: Any) -> None:
        super().add_row(*(plain(cell if isinstance(cell, Text) else str(cell)) for cell in cells), **settings)


def table(title: str, *columns: str) -> Table:
    """Text to the left, numbers (columns that begin with #) to the right."""
    result = PlainTable(title=plain(title, "table.title"), title_justify="left")
    for column in columns:
        result.add_column(plain(column.lstrip("#")), justify="right" if column.startswith("#") else "left")
    return result


def plain(text: str | Text, style: str = "") -> Text:
    """Text for a console, without control characters."""
    return Text(printable(text.plain), text.style) if isinstance(text, Text) else Text(printable(text), style)


def html(text: str) -> str:
    """Text escaped for an HTML page."""
    return escape(printable(text))


def markdown_text(text: str) -> str:
    """Text for Markdown outside of code, also in a table: HTML, links, code, emphasis and cell ends are escaped.

    An underscore between letters or digits, as in dev_clean, is no emphasis.
    """
    text = re.sub(r"&(?=#?\w+;)", "&amp;", printable(text)).replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"[\\|`*~\[\]]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", text)


def markdown_code(text: str) -> str:
    """Text as code in Markdown, also in a table; characters that would end it become entities in <code>."""
    text = printable(text)
    if not re.search("[`|<>&]", text):
        return f"`{text}`"
    return f"<code>{re.sub(r'[^A-Za-z0-9 ./-]', lambda c: f'&#{ord(c[0])};', text)}</code>"


def figure(value: Any, digits: int = 2) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.2f} %"


def signed(value: float, digits: int = 2) -> str:
    """A difference with its sign, and more digits where fewer would make it zero: +0.004, but +0.00 of nothing."""
    if not round(value, MOST_DIGITS):
        return f"{0:+.{digits}f}"
    while not round(value, digits):
        digits += 1
    return f"{value:+.{digits}f}"


def with_interval(value: float, ends: tuple[float, float], digits: int = 2) -> tuple[str, str]:
    """A difference and its interval, so written that the interval leaves out zero where its numbers do."""
    return signed(value, digits), " to ".join(signed(end, digits) for end in ends)


def in_brackets(value: float, ends: tuple[float, float], digits: int = 2) -> str:
    """The same as one text: +0.12 (-0.10 to +0.30)."""
    return "{} ({})".format(*with_interval(value, ends, digits))


def megabytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB"


def markdown(tables: Sequence[Table]) -> str:
    """Tables as Markdown, each below its title."""
    return "\n".join(_markdown(one) for one in tables)


def _markdown(one: Table) -> str:
    rows = [[_cell(column.header) for column in one.columns]]
    rows.append(["---:" if column.justify == "right" else "---" for column in one.columns])
    rows += [list(row) for row in zip(*(map(_cell, column.cells) for column in one.columns), strict=True)]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"**{_cell(one.title)}**", "", *lines, ""])


def _cell(content: Any) -> str:
    return markdown_text(str(content))
