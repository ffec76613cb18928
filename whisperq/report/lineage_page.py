"""The lineage as cards: what an artifact is, the command that made it, its inputs, and its manifest."""

import json
from collections.abc import Iterator
from pathlib import Path

from whisperq.report.gathering import Entry, Gathered
from whisperq.report.lineage import SAID, Lineage, Link
from whisperq.report.lineage_commands import command_line
from whisperq.report.report_tables import BROKEN, link, manifest_link
from whisperq.results.cells import html, markdown_code, markdown_text

SHORT = 12  # characters of a hash
IN_ITS_RUN = "Names in a command are those of the artifact's run folder: add --run FOLDER where that is not run/."


def cards(gathered: Gathered, lineage: Lineage, out: Path) -> Iterator[str]:
    """HTML cards of all artifacts in the order of their paths, which keeps a run together."""
    for entry in gathered.entries:
        yield _card(entry, lineage, out)


def _card(entry: Entry, lineage: Lineage, out: Path) -> str:
    breaks = lineage.breaks(entry)
    torn = f"<p class=broken>{BROKEN} {'; '.join(map(html, breaks))}</p>" if breaks else ""
    inputs = "".join(f"<li>{_input(one)}</li>" for one in lineage.links(entry))
    version = entry.artifact.manifest["whisperq"]
    settings = html(json.dumps(entry.config, indent=1))
    return (
        f'<article class="card{" torn" if breaks else ""}" id="{entry.anchor}">'
        f"<h4>{html(entry.name)} <span>{html(entry.kind)}</span></h4>{torn}"
        f"<pre>{html(command_line(entry, lineage.gathered))}</pre><ul>{inputs}</ul>"
        f'<p><a href="{html(manifest_link(entry, out))}">manifest.json</a> '
        f"<span class=hash>sha256 {html(entry.sha256[:SHORT])}, whisperq {html(str(version))}</span></p>"
        f"<details><summary>all settings</summary><pre>{settings}</pre></details></article>"
    )


def _input(one: Link) -> str:
    name = link(one.entry, html(one.entry.name)) if one.entry else f"<code>{html(one.path)}</code>"
    broken = one.state in ("changed", "gone")
    state = f"<b class=broken>{SAID[one.state]}</b>" if broken else SAID[one.state]
    return f"{html(one.role)}: {name}, {state} <span class=hash>{html(one.sha256[:SHORT])}</span>"


def lineage_record(gathered: Gathered, lineage: Lineage) -> list[dict]:
    """The lineage of all artifacts as data for JSON."""
    return [
        {
            "name": entry.name,
            "kind": entry.kind,
            "path": str(entry.path),
            "sha256": entry.sha256,
            "command": command_line(entry, gathered),
            "inputs": [
                {"role": one.role, "path": one.path, "sha256": one.sha256, "state": one.state}
                for one in lineage.links(entry)
            ],
            "broken": list(lineage.breaks(entry)),
        }
        for entry in gathered.entries
    ]


def lineage_markdown(gathered: Gathered, lineage: Lineage, out: Path) -> str:
    """One line for each artifact: its command, its manifest, and whether its chain holds."""
    lines = ["## Lineage", "", IN_ITS_RUN, "", "| artifact | kind | command | chain |", "| --- | --- | --- | --- |"]
    for entry in gathered.entries:
        state = markdown_text("; ".join(lineage.breaks(entry)))
        manifest = f"[{markdown_text(entry.name)}](<{manifest_link(entry, out)}>)"
        chain = f"{BROKEN} {state}" if state else "whole"
        command = markdown_code(command_line(entry, gathered))
        lines.append(f"| {manifest} | {markdown_text(entry.kind)} | {command} | {chain} |")
    for name, reason in gathered.unreadable:
        lines.append(f"| {markdown_text(name)} | - | - | {BROKEN} {markdown_text(reason)} |")
    return "\n".join([*lines, ""])
