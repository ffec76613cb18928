"""What a script that makes one table of a document does: prints it, and leaves its numbers in a file."""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table


def print_table(
    title: str,
    summary: Callable[[Path], list[dict]],
    columns: Callable[[list[dict]], Sequence[str]],
    row: Callable[[dict], Sequence[str]],
) -> None:
    """Takes RUNS [--markdown] [--copy FILE] from the command line."""
    parser = argparse.ArgumentParser(description=f"Prints the table: {title}.")
    parser.add_argument("runs", type=Path)
    parser.add_argument("--markdown", action="store_true", help="the table alone, for a document")
    parser.add_argument("--copy", type=Path, help="also leave the numbers in this JSON file")
    args = parser.parse_args()
    entries = summary(args.runs)
    if args.copy:
        args.copy.write_text(json.dumps(entries, indent=1) + "\n")
    names, rows = columns(entries), list(map(row, entries))
    if args.markdown:
        lines = [names, ["---"] * len(names), *rows]
        print("\n".join(f"| {' | '.join(line)} |" for line in lines))
        return
    table = Table(*names, title=title, title_justify="left")
    for line in rows:
        table.add_row(*line)
    Console(width=175).print(table)
