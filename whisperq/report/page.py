"""The report as one HTML page that needs nothing but itself: styles and figures stand in it, scripts there are none.

Its content policy forbids every request, so that a browser loads nothing from outside whatever the page says.
"""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from pathlib import Path

from whisperq import __version__
from whisperq.report.figure_list import SECTIONS, ReportFigure
from whisperq.report.gathering import Entry, Gathered
from whisperq.report.lineage import Lineage
from whisperq.report.lineage_page import cards
from whisperq.report.report_tables import BROKEN, Grid, as_html, link
from whisperq.results.cells import html

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
LARGEST = 400_000  # bytes of a vector figure in the page; of a larger one the page shows the pixels
BROAD = 600  # pixels of natural width, beyond which a figure takes a line of its own
INLINE = 3  # sources that a caption names at once
LISTED = 12  # broken chains at the top of the page


@dataclass(frozen=True)
class Report:
    """Content of a report, for a page or a Markdown file."""

    title: str
    runs: tuple[str, ...]
    gathered: Gathered
    lineage: Lineage
    grids: tuple[Grid, ...]
    figures: tuple[ReportFigure, ...]

    def broken(self, entry: Entry) -> bool:
        return bool(self.lineage.breaks(entry))

    def all_breaks(self) -> list[str]:
        return list(dict.fromkeys(b for e in self.gathered.entries for b in self.lineage.breaks(e)))


def html_page(report: Report, folder: Path, out: Path) -> str:
    """`folder` holds the figures now, `out` is where the report will lie: links to manifests count from there."""
    style = (files("whisperq.report") / "page.css").read_text(encoding="utf-8")
    body = "\n".join(
        [
            f"<header><h1>{html(report.title)}</h1>{_runs(report)}{_alarm(report)}{_navigation(report)}</header><main>",
            "<section id=tables><h2>Tables</h2>",
            *(as_html(grid, report.broken) for grid in report.grids),
            "" if report.grids else "<p>These runs hold no evaluation and no outliers yet.</p>",
            "</section>",
            *_figures(report, folder),
            "<section id=lineage><h2>Lineage</h2><p>Every artifact, with the command that made it, the settings that "
            "differ from the defaults, and what it was made from. A number in a table leads to its card here; the "
            "card leads to the manifest.</p>",
            *cards(report.gathered, report.lineage, out),
            "</section></main>",
        ]
    )
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name=viewport content="width=device-width, initial-scale=1"><link rel=icon href="data:,">'
        f"<title>{html(report.title)}</title>\n<style>\n{style}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _runs(report: Report) -> str:
    kinds = groupby(sorted(e.kind for e in report.gathered.entries))
    counted = ", ".join(f"{sum(1 for _ in found)} {kind}" for kind, found in kinds)
    runs = ", ".join(f"<code>{html(run)}</code>" for run in report.runs)
    return f"<p>whisperq {__version__}. Runs: {runs}. {len(report.gathered.entries)} artifacts: {html(counted)}.</p>"


def _alarm(report: Report) -> str:
    breaks = [f"{path}: {reason}" for path, reason in report.gathered.unreadable] + report.all_breaks()
    if not breaks:
        return ""
    items = "".join(f"<li>{html(b)}</li>" for b in breaks[:LISTED])
    more = f"<li>and {len(breaks) - LISTED} more, in the lineage</li>" if len(breaks) > LISTED else ""
    return (
        f"<div class=alarm role=note><p><span class=broken>{BROKEN} Broken chains.</span> Numbers marked {BROKEN} "
        "come from inputs that have changed or are gone, so that nobody can make them again:</p>"
        f"<ul>{items}{more}</ul></div>"
    )


def _navigation(report: Report) -> str:
    tables = [(grid.stem, grid.title) for grid in report.grids]
    sections = [(f"figures-{key}", SECTIONS[key]) for key in dict.fromkeys(d.section for d in report.figures)]
    links = (f'<a href="#{a}">{html(text)}</a>' for a, text in (*tables, *sections, ("lineage", "Lineage")))
    return f"<nav>{''.join(links)}</nav>"


def _figures(report: Report, folder: Path) -> Iterator[str]:
    for key, drawn in groupby(report.figures, key=lambda d: d.section):
        shown = "".join(_figure(report, one, folder) for one in drawn)
        yield f'<section id="figures-{key}"><h2>{SECTIONS[key]}</h2><div class=figures>{shown}</div></section>'


def _figure(report: Report, one: ReportFigure, folder: Path) -> str:
    file = folder / chosen_file(one.files, folder)
    kind = "image/svg+xml" if file.suffix == ".svg" else "image/png"
    data = base64.b64encode(file.read_bytes()).decode()
    size = png_size(folder / next((f for f in one.files if f.endswith(".png")), ""))
    broad = " class=broad" if size and size[0] // 2 > BROAD else ""
    places = f" width={size[0] // 2} height={size[1] // 2}" if size else ""
    marked = f' <span class=broken title="broken chain">{BROKEN}</span>' if any(map(report.broken, one.sources)) else ""
    sources = "From " + ", ".join(link(entry, html(entry.name)) for entry in one.sources)
    if len(one.sources) > INLINE:
        sources = f"<details><summary>From {len(one.sources)} artifacts</summary>{sources}</details>"
    saved = " ".join(f'<a href="{html(f)}">{Path(f).suffix[1:].upper()}</a>' for f in one.files)
    return (
        f'<figure{broad}><div class=wide tabindex=0 role=region aria-label="{html(one.caption)}">'
        f'<img alt="{html(one.caption)}" src="data:{kind};base64,{data}"{places}></div>'
        f"<figcaption>{html(one.caption)}{marked} {sources} {saved}</figcaption></figure>"
    )


def chosen_file(names: Sequence[str], folder: Path) -> str:
    """The figure's file to show: the vector file, or the pixels where that is too large."""
    vector = next((n for n in names if n.endswith(".svg")), names[0])
    pixels = next((n for n in names if n.endswith(".png")), vector)
    return vector if (folder / vector).stat().st_size <= LARGEST else pixels


def png_size(path: Path) -> tuple[int, int] | None:
    """Width and height in pixels, from a PNG's first bytes."""
    if not path.is_file():
        return None
    head = path.read_bytes()[:24]
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
