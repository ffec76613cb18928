"""A report's tables: cells that know the artifacts they come from; as Markdown, CSV, and HTML."""

import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from whisperq.report.gathering import Entry
from whisperq.results.cells import html, markdown_text

BROKEN = "\u26a0"  # after a number whose chain does not hold


@dataclass(frozen=True)
class Cell:
    """A number or a word; `note` is its interval or unit, in smaller type."""

    text: str
    note: str = ""
    sources: tuple[Entry, ...] = ()
    bold: bool = False


@dataclass(frozen=True)
class Grid:
    """A table with its raw numbers as records for CSV."""

    stem: str
    title: str
    caption: str
    columns: tuple[str, ...]  # numbers, to the right, begin with #
    rows: tuple[tuple[Cell, ...], ...]
    records: tuple[Mapping[str, Any], ...] = field(default=())
    leading: int = 0  # columns that stand above the rows that share them, where there is room for that


def grid(
    stem: str, words: tuple[str, str], columns: Sequence[str], rows: Sequence[Sequence[Cell]], leading: int, **more: Any
) -> Grid:
    """words: title and caption. A column that says nothing is left out."""
    kept = [i for i in range(len(columns)) if any(row[i].text for row in rows)]
    narrow = tuple(tuple(row[i] for i in kept) for row in rows)
    leading = sum(i < leading for i in kept)
    return Grid(stem, *words, tuple(columns[i] for i in kept), narrow, leading=leading, **more)


Broken = Callable[[Entry], bool]


def markdown(grid: Grid, out: Path, broken: Broken) -> str:
    """Each number links to the manifest that it comes from, as a path from `out`."""
    head = [markdown_text(c.lstrip("#")) for c in grid.columns]
    rule = ["---:" if c.startswith("#") else "---" for c in grid.columns]
    rows = [[_markdown_cell(cell, out, broken) for cell in row] for row in grid.rows]
    lines = [f"| {' | '.join(row)} |" for row in (head, rule, *rows)]
    return "\n".join([f"### {markdown_text(grid.title)}", "", markdown_text(grid.caption), "", *lines, ""])


def _markdown_cell(cell: Cell, out: Path, broken: Broken) -> str:
    text = markdown_text(cell.text)
    text = f"**{text}**" if cell.bold else text
    if cell.sources:
        text = f"[{text}](<{manifest_link(cell.sources[0], out)}>)"
        text += "".join(f" [{i}](<{manifest_link(e, out)}>)" for i, e in enumerate(cell.sources[1:], 2))
    marked = f" {BROKEN}" if any(map(broken, cell.sources)) else ""
    return text + marked + (f" {markdown_text(cell.note)}" if cell.note else "")


def manifest_link(entry: Entry, out: Path) -> str:
    """Relative URL of the artifact's manifest, quoted, since a folder's name may hold % or #."""
    place = Path(os.path.relpath(entry.path / "manifest.json", out.resolve())).as_posix()
    return quote(os.fsencode(place))


def as_csv(grid: Grid) -> str:
    """The raw numbers, one record a line, with all columns that any has."""
    columns = list(dict.fromkeys(name for record in grid.records for name in record))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(grid.records)
    return text.getvalue()


def as_html(grid: Grid, broken: Broken) -> str:
    """Each number links to its artifact's place in the page's lineage."""
    columns = grid.columns[grid.leading :]
    head = "".join(f"<th{_right(c)} scope=col>{html(c.lstrip('#'))}</th>" for c in columns)
    bodies = []
    for shared, rows in groupby(grid.rows, key=lambda row: [cell.text for cell in row[: grid.leading]]):
        above = ", ".join(html(text) for text in shared if text)
        line = f"<tr class=above><th colspan={len(columns)} scope=rowgroup>{above}</th></tr>" if above else ""
        found = "".join(_html_row(columns, row[grid.leading :], broken) for row in rows)
        bodies.append(f"<tbody>{line}{found}</tbody>")
    return (
        f'<section id="{grid.stem}"><h3>{html(grid.title)}</h3><p>{html(grid.caption)}</p>'
        f'<div class=wide tabindex=0 role=region aria-label="{html(grid.title)}"><table>'
        f"<thead><tr>{head}</tr></thead>{''.join(bodies)}</table></div></section>"
    )


def _html_row(columns: Sequence[str], row: Sequence[Cell], broken: Broken) -> str:
    """One row of an HTML table; each cell carries its column's name, which narrow screens show."""
    cells = (
        f'<td{_right(c)} data-column="{html(c.lstrip("#"))}">{_html_cell(x, broken)}</td>'
        for c, x in zip(columns, row, strict=True)
    )
    return f"<tr>{''.join(cells)}</tr>"


def _html_cell(cell: Cell, broken: Broken) -> str:
    text = f"<b>{html(cell.text)}</b>" if cell.bold else html(cell.text)
    if cell.sources:
        text = link(cell.sources[0], text)
        text += "".join(f"<sup>{link(entry, str(i))}</sup>" for i, entry in enumerate(cell.sources[1:], 2))
    if any(map(broken, cell.sources)):
        text += f' <abbr class=broken title="its chain of inputs is broken, see the lineage">{BROKEN}</abbr>'
    return text + (f" <small>{html(cell.note)}</small>" if cell.note else "")


def link(entry: Entry, text: str) -> str:
    """Link to an entry's place in the lineage; `text` is HTML already."""
    return f'<a href="#{entry.anchor}" title="{html(entry.name)}">{text}</a>'


def _right(column: str) -> str:
    return " class=n" if column.startswith("#") else ""
