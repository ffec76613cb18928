"""Results on standard output: for a person as tables, for a program as one JSON object."""

import json
import sys
from collections.abc import Iterable

from rich.console import Console, RenderableType

from whisperq.artifact import Artifact
from whisperq.report.lineage_tree import lineage_tree
from whisperq.report.tables import tables
from whisperq.results.cells import plain


def print_out(what: str | Iterable[RenderableType]) -> None:
    """JSON, or things for a console."""
    if isinstance(what, str):
        print(what)
        return
    console = _console()
    for each in what:
        console.print(plain(each) if isinstance(each, str) else each, highlight=False)


def print_result(result: Artifact, as_json: bool) -> None:
    """The summary: tables, or the manifest with the artifact's path."""
    if as_json:
        print(json.dumps({"path": str(result.path), **result.manifest}))
        return
    out = _console()
    for each in tables(result):
        out.print(each)
    for figure in result.results.get("figures", ()):
        out.print(plain(f"figure: {result.path / str(figure)}"), highlight=False, soft_wrap=True)
    out.print(plain(f"{result.kind}: {result.path}"), highlight=False, soft_wrap=True)


def print_lineage(result: Artifact) -> None:
    """Print what the artifact was made from, and how many of its files match its manifest."""
    tables(result)  # what cannot be shown is refused before anything is printed
    _console().print(lineage_tree(result), highlight=False, soft_wrap=True)
    _console().print(f"{len(result.manifest['files'])} files are as they were written", highlight=False)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 140)
