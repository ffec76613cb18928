"""What a command would do: its settings and where each comes from, what it would read and write.

The command's own call tells it, up to its step. What only the step finds out is not tried: a layer that the model
lacks, a damaged recording, a list that has changed since the result that is there was made. planning.NOT_TRIED says so.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from whisperq import artifact
from whisperq.cli.planning import Call, Origin, Plan, Read, Setting, Write, written_down
from whisperq.cli.session import Session
from whisperq.config import FILE, Experiment, Source
from whisperq.disk import hub_cache, hub_is_offline
from whisperq.errors import UsageError
from whisperq.hashing import file_sha256
from whisperq.publishing import destination
from whisperq.report.gathering import gather
from whisperq.results.transcripts import STDIN, is_stream, named_once, no_recording, output_files
from whisperq.run_folder import work_folder
from whisperq.settings import Common


def plan(session: Session, settings: Any, call: Callable[[Session, Any], Any]) -> Plan:
    """Raises what the command itself raises before its step."""
    with written_down() as calls:
        call(session, settings)
    writes = [write for one in calls for write in (*transcripts(one), written(one), checkpoints(one)) if write]
    return Plan(
        session.command,
        dict(resolved(session, settings, calls[-1].config)),
        tuple(read(session, calls)),
        (*writes, *kept_configuration(session)),
    )


def resolved(session: Session, settings: Any, final: Any) -> Iterator[tuple[str, Setting]]:
    """All values by name; `final` are the settings that the step would be given."""
    configured = session.experiment.defaults.get(session.command, {})
    for f in fields(settings):
        value = getattr(final, f.name)
        origin: Origin = "configuration" if f.name in configured else "default"
        origin = "flag" if session.flags.get(f.name) is not None else origin
        yield f.name, Setting(value, origin if value == getattr(settings, f.name) else "chosen")
    for f in fields(Experiment):
        if f.name in ("language", "task", "normalizer") and not hasattr(settings, f.name):
            value = getattr(session.experiment, f.name)
            yield f.name, Setting(value, "default" if value == f.default else "configuration")
    for f in (f for f in fields(Common) if f.name != "dry_run"):
        value, given = getattr(session.common, f.name), session.flags.get(f.name) is not None
        by_environment = f.name == "run" and value == os.environ.get("WHISPERQ_RUN")
        yield f.name, Setting(value, ("environment" if by_environment else "flag") if given else "default")


def read(session: Session, calls: list[Call]) -> Iterator[Read]:
    """The inputs that were announced, then the files that the command line names itself."""
    if session.experiment.path:
        yield Read("configuration", str(session.experiment.path), "there")
    sources = {s.title: s for call in calls for s in leaves(tuple(call.inputs.values())) if isinstance(s, Source)}
    announced = dict.fromkeys((role, str(value)) for role, value in session.chosen)
    for role, what in announced:
        yield Read(role, what, *state(sources.get(what, what)))
    known = {what for _, what in announced} | {str(call.out) for call in calls}
    if calls[-1].declared.text:
        yield from recordings(calls[-1])
        return
    for name in calls[-1].declared.named:
        for one in leaves([calls[-1].inputs[name]]):
            if (title := one.title if isinstance(one, Source) else str(one)) not in known:
                yield Read(name.rstrip("s"), title, *state(one))
    if utterance := calls[-1].inputs.get("utterance"):
        here = "file" if Path(utterance).is_file() else "not looked for in the test data"
        yield Read("utterance", utterance, here)


def recordings(call: Call) -> Iterator[Read]:
    """The audio files of a step that gives text; with --skip-bad only one that can use none of them stops."""
    files = call.inputs["files"]
    bad = {name: what for name in files if (what := no_recording(name) or _absent(name))}
    stops = len(bad) == len(files) or not call.config.skip_bad
    for name in files:
        here = "standard input" if name == STDIN else "file"
        left_out = "" if stops else ", left out"
        yield Read("file", name, f"{bad[name]}{left_out}" if name in bad else here, name in bad and stops)


def _absent(name: str) -> str | None:
    return None if name == STDIN or os.path.exists(name) else "not there"


def leaves(value: Any) -> Iterator[Any]:
    """The members of nested tuples and lists."""
    if isinstance(value, list | tuple):
        for one in value:
            yield from leaves(one)
    else:
        yield value


def state(what: Source | Path | str) -> tuple[str, bool]:
    """How an input was found, in words, and whether it is missing."""
    name = what.title if isinstance(what, Source) else str(what)
    place = Path(name)
    if name == STDIN:
        return "standard input", False
    if isinstance(what, Source) and what.dataset:
        return "folder" if Path(what.dataset).is_dir() else "data set of the Hub", False
    if artifact.is_artifact(place):
        return f"finished: {artifact.load(place, verify=False).kind}", False
    if place.exists():
        return "folder" if place.is_dir() else "file", False
    if not isinstance(what, Source) and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        return _on_the_hub(name)
    return "not there", True


def _on_the_hub(name: str) -> tuple[str, bool]:
    if (hub_cache() / f"models--{name.replace('/', '--')}" / "snapshots").is_dir():
        return "of the Hub, in the cache", False
    if hub_is_offline():
        return "of the Hub, not in the cache, and HF_HUB_OFFLINE is set", True
    return "of the Hub, would be fetched", False


def written(call: Call) -> Write | None:
    """The step's place, and what the real run would do about what is there; None where that is no artifact."""
    out = call.out
    if out is None or call.declared.text:
        return None
    try:
        destination(out)
    except UsageError as error:
        return Write(str(out), str(error), refused=True)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        left = _left_over(call, out)
        return Write(str(out), f"new; goes on with {left} where that was the same command" if left else "new")
    if not artifact.is_artifact(out):
        return Write(str(out), "there, but not finished by whisperq; remove it or choose another --out", refused=True)
    if call.context.force:
        return Write(str(out), "there; replaced (--force)")
    return _over_finished(call, out)


def transcripts(call: Call) -> Iterator[Write]:
    """The files of a step that writes text. Raises UsageError for recordings that they cannot hold."""
    if not call.declared.text:
        return
    for place in output_files(named_once(call.inputs["files"]), call.out, call.config.format):
        if not place.exists():
            yield Write(str(place), "new")
        elif is_stream(place):
            yield Write(str(place), "a pipe or a device")
        elif call.context.force and not place.is_dir():
            yield Write(str(place), "there; replaced (--force)")
        else:
            yield Write(str(place), "there; give --force to replace it, or another --out", refused=True)


def checkpoints(call: Call) -> Write | None:
    """The work folder with checkpoints that a training leaves beside its result; None without one."""
    if call.out is None or not call.declared.checkpoints:
        return None
    folder = work_folder(call.out)
    return Write(str(folder), "there" if folder.is_dir() else "new; it stays, so that the training can go on")


def _left_over(call: Call, out: Path) -> Path | None:
    """The work folder of a job that was interrupted, or that can go on."""
    folders = [out.with_name(f"{out.name}-partial"), work_folder(out)]
    return next((p for p in folders if call.declared.resumes and p.is_dir()), None)


def _over_finished(call: Call, out: Path) -> Write:
    old = artifact.load(out, verify=False)
    declared = call.declared
    if old.manifest["command"] != declared.name:
        return _refused(out, [f"its command, {old.manifest['command']}"])
    differing = differences(call, old)
    if declared.checkpoints and differing == ["max_steps"] and call.config.max_steps > old.config["max_steps"]:
        if left := _left_over(call, out):
            return Write(str(out), f"there; goes on from step {old.config['max_steps']:,} with {left}")
        return Write(str(out), "finished, and its checkpoints are gone: give --force, or another --out", refused=True)
    if differing:
        return _refused(out, differing)
    known = compared(call).values()
    if open_questions := [role for role, entry in old.inputs.items() if entry["sha256"] not in known]:
        unless = f"unless one of these differs, which is not compared: {', '.join(open_questions)}"
        return Write(str(out), f"there, by this very command; nothing would be done {unless}")
    return Write(str(out), "finished already, by this very command; nothing would be done")


def _refused(out: Path, differing: list[str]) -> Write:
    what = f"there, another result (it differs in {', '.join(differing)}); give --force or another --out"
    return Write(str(out), what, refused=True)


def differences(call: Call, old: artifact.Artifact) -> list[str]:
    """Settings, and artifacts among the inputs, that are not those of the result which is there."""
    declared, settings = call.declared, json.loads(json.dumps(call.context.settings(call.config)))
    if declared.compared is not None:
        settings = {name: settings[name] for name in declared.compared}
    settings = {k: v for k, v in settings.items() if v is not None or k not in declared.left_to_inputs}
    keys = sorted(key for key, value in settings.items() if old.config.get(key) != value)
    now, then = compared(call), {role: entry["sha256"] for role, entry in old.inputs.items()}
    other = [role for role, sha256 in now.items() if sha256 not in then.values()]
    if declared.gathers:  # all its inputs are compared, so that their names and those that are gone count too
        other = sorted(role for role in {*now, *then} if now.get(role) != then.get(role))
    return keys + [f"input {role}" for role in other]


def compared(call: Call) -> dict[str, str]:
    """The inputs that cost little to compare: artifacts, each by the sha256 of its manifest."""
    if call.declared.gathers:
        return {entry.name: entry.sha256 for entry in gather(call.inputs["runs"], verify=False).entries}
    artifacts = {role: p for role, p in call.inputs.items() if isinstance(p, Path) and artifact.is_artifact(p)}
    return {role: file_sha256(p / artifact.MANIFEST) for role, p in artifacts.items()}


def kept_configuration(session: Session) -> Iterator[Write]:
    """The copy of the configuration that the first step leaves in the run folder."""
    path = session.run / FILE
    if session.experiment.path not in (None, path.resolve()) and not path.exists():
        yield Write(str(path), "new")
