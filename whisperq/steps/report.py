"""Run folders gathered into one report: the paper's tables, figures, and where every number comes from."""

import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from urllib.parse import quote

from whisperq import artifact
from whisperq.jobs.progress import say
from whisperq.kinds.observations import Report as Results
from whisperq.options import ReportConfig
from whisperq.report.distortion_tables import distorted, distortion_tables
from whisperq.report.error_tables import error_tables
from whisperq.report.figure_list import draw
from whisperq.report.gathering import Gathered, gather
from whisperq.report.lineage import Lineage
from whisperq.report.lineage_page import lineage_markdown, lineage_record
from whisperq.report.outlier_tables import outlier_tables
from whisperq.report.page import Report, html_page
from whisperq.report.report_tables import as_csv, markdown
from whisperq.report.robustness import robustness_grids
from whisperq.report.sifting import made_of_the_sound
from whisperq.report.speed_tables import speed_table, speeds
from whisperq.report.word_errors import measure
from whisperq.results.cells import markdown_text
from whisperq.settings import Context


def report(runs: Sequence[Path], out: Path, config: ReportConfig, context: Context) -> artifact.Artifact:
    """Writes report.html, report.md, a CSV file for each table, figures/ and lineage.json.

    Raises InputError for a folder that is not there or holds no artifact. A broken chain is shown, not refused.
    """
    gathered = gather(runs, config.verify)
    inputs = {e.name: e.reference for e in gathered.entries}
    with artifact.create(out, "report", "report", context.settings(config), inputs, context.force) as draft:
        whole = partial(assemble, (config.title, tuple(map(str, runs))), draft.folder, out, context.seed)
        shown = made_of_the_sound(gathered, whole, (partial(whole, rendered=False), whole))
        breaks, unreadable = shown.all_breaks(), shown.gathered.unreadable
        for line in (*(f"{path}: {reason}" for path, reason in unreadable), *breaks):
            say(f"warning: {line}")
        results: Results = {
            "artifacts": len(shown.gathered.entries),
            "tables": {grid.title: len(grid.rows) for grid in shown.grids},
            "drawn": len(shown.figures),
            "broken": breaks,
            "unreadable": list(unreadable),
        }
        draft.results |= results
    return artifact.load(out)


def assemble(
    names: tuple[str, tuple[str, ...]], folder: Path, out: Path, seed: int, gathered: Gathered, rendered: bool = True
) -> Report:
    """Everything, written into `folder` in the place of what lies there; names: the title and the runs."""
    for old in folder.iterdir():
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    measured, fast, outputs = measure(gathered, seed), speeds(gathered, seed), distorted(gathered)
    grids = (*outlier_tables(gathered), *error_tables(measured), *distortion_tables(outputs), *speed_table(fast))
    grids += tuple(robustness_grids(gathered))
    figures = draw(gathered, measured, fast, outputs, folder, rendered)
    shown = Report(*names, gathered, Lineage(gathered), grids, tuple(figures))
    write(shown, folder, out)
    return shown


def write(shown: Report, folder: Path, out: Path) -> None:
    """`out`: where the folder will lie, from which links count."""
    (folder / "report.html").write_text(html_page(shown, folder, out), encoding="utf-8")
    (folder / "report.md").write_text(as_markdown(shown, out), encoding="utf-8")
    for grid in shown.grids:
        (folder / f"{grid.stem}.csv").write_text(as_csv(grid), encoding="utf-8", errors="backslashreplace")
    record = lineage_record(shown.gathered, shown.lineage)
    (folder / "lineage.json").write_text(json.dumps(record, indent=2) + "\n")


def as_markdown(shown: Report, out: Path) -> str:
    tables = [markdown(grid, out, shown.broken) for grid in shown.grids]
    captions = [(markdown_text(d.caption), quote(d.files[0])) for d in shown.figures]
    figures = [f"![{caption}](<{file}>)\n\n*{caption}*\n" for caption, file in captions]
    lineage = lineage_markdown(shown.gathered, shown.lineage, out)
    title = f"# {markdown_text(shown.title)}"
    return "\n".join([title, "", "## Tables", "", *tables, "## Figures", "", *figures, lineage])
