"""Run folders gathered into one report: the paper's tables, figures, and where every number comes from."""

import json
from collections.abc import Sequence
from pathlib import Path

from whisperq import artifact
from whisperq.flags import Context
from whisperq.options import ReportConfig
from whisperq.report.distortion_tables import distorted, distortion_tables
from whisperq.report.drawing import draw
from whisperq.report.error_tables import error_tables
from whisperq.report.gathering import gather
from whisperq.report.grids import as_csv, markdown
from whisperq.report.lineage import Lineage
from whisperq.report.lineage_page import lineage_markdown, lineage_record
from whisperq.report.measured import measure
from whisperq.report.outlier_tables import outlier_tables
from whisperq.report.page import Report, html_page
from whisperq.report.progress import say
from whisperq.report.robustness import robustness_grids
from whisperq.report.speed_tables import speed_table, speeds


def report(runs: Sequence[Path], out: Path, config: ReportConfig, context: Context) -> artifact.Artifact:
    """Writes report.html, report.md, a CSV file for each table, figures/ and lineage.json.

    Raises InputError for a folder that is not there or holds no artifact. A broken chain is shown, not refused.
    """
    gathered = gather(runs, config.verify)
    inputs = {e.name: e.reference for e in gathered.entries}
    with artifact.create(out, "report", "report", context.settings(config), inputs, context.force) as draft:
        lineage = Lineage(gathered)
        measured, fast = measure(gathered, context.seed), speeds(gathered, context.seed)
        outputs = distorted(gathered)
        grids = (*outlier_tables(gathered), *error_tables(measured), *distortion_tables(outputs), *speed_table(fast))
        grids += tuple(robustness_grids(gathered))
        figures = draw(gathered, measured, fast, outputs, draft.folder)
        shown = Report(config.title, tuple(map(str, runs)), gathered, lineage, grids, tuple(figures))
        write(shown, draft.folder, out)
        breaks = shown.all_breaks()
        for line in breaks:
            say(f"warning: {line}")
        draft.results |= {
            "artifacts": len(gathered.entries),
            "tables": {grid.title: len(grid.rows) for grid in grids},
            "drawn": len(figures),
            "broken": breaks,
            "unreadable": [list(pair) for pair in gathered.unreadable],
        }
    return artifact.load(out)


def write(shown: Report, folder: Path, out: Path) -> None:
    """`out`: where the folder will lie, from which links count."""
    (folder / "report.html").write_text(html_page(shown, folder, out), encoding="utf-8")
    (folder / "report.md").write_text(as_markdown(shown, out), encoding="utf-8")
    for grid in shown.grids:
        (folder / f"{grid.stem}.csv").write_text(as_csv(grid), encoding="utf-8")
    record = lineage_record(shown.gathered, shown.lineage)
    (folder / "lineage.json").write_text(json.dumps(record, indent=2) + "\n")


def as_markdown(shown: Report, out: Path) -> str:
    tables = [markdown(grid, out, shown.broken) for grid in shown.grids]
    figures = [f"![{d.caption}](<{d.files[0]}>)\n\n*{d.caption}*\n" for d in shown.figures]
    lineage = lineage_markdown(shown.gathered, shown.lineage, out)
    return "\n".join([f"# {shown.title}", "", "## Tables", "", *tables, "## Figures", "", *figures, lineage])
