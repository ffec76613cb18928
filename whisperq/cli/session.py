"""Turn flags into a step's inputs, with defaults of the configuration and the run folder; choices are announced."""

import math
import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO, TypeVar

from whisperq import artifact
from whisperq.config import FILE, Experiment, Source, find_config, read_config, resolve, source
from whisperq.errors import InputError, UsageError, meant
from whisperq.hashing import file_sha256
from whisperq.jobs.progress import say
from whisperq.kinds import noun
from whisperq.run_folder import NAMED, RunFolder, models_in, work_folder
from whisperq.settings import Common, Context

EMBEDDED = Path(__file__).parents[1] / "data" / "calibration" / "calibration.jsonl"  # synthesised speech
Chosen = TypeVar("Chosen", bound=Path | str)


@dataclass
class Session:
    """One command's view of its flags, configuration and run folder."""

    command: str
    common: Common
    flags: Mapping[str, Any]
    experiment: Experiment
    run: RunFolder
    chosen: list[tuple[str, Path | str]] = field(default_factory=list)  # what was announced: role and value
    output: TextIO | None = None  # what takes transcripts in the place of standard output

    @classmethod
    def open(cls, command: str, common: Common, flags: Mapping[str, Any]) -> "Session":
        root = Path(common.run)
        path = find_config(common.config, root)
        session = cls(command, common, flags, read_config(path), RunFolder(root))
        if path is not None:
            say(f"configuration: {path}")
        return session

    def context(self) -> Context:
        c, e = self.common, self.experiment
        return Context(c.device, c.dtype, c.seed, c.force, e.language, e.task)

    def settings(self, kind: type) -> Any:
        return resolve(kind, self.command, self.experiment, self.flags)

    def out(self, default: str) -> Path:
        return Path(self.common.out) if self.common.out else self.run / default

    def keep_configuration(self) -> None:
        """Leave the resolved configuration in the run folder, so that later jobs need none."""
        path = self.run / FILE
        if self.experiment.path is None or self.experiment.path == path.resolve():
            return
        if path.exists():
            if path.read_text() != self.experiment.as_yaml():
                say(
                    f"warning: {self.experiment.path} differs from {path}, the copy that later jobs read; remove the "
                    "copy, and the next command makes it anew"
                )
        else:
            self.run.root.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{FILE}.partial-{socket.gethostname()}-{os.getpid()}")
            temporary.write_text(self.experiment.as_yaml())
            temporary.rename(path)

    def _chose(self, role: str, value: Chosen) -> Chosen:
        say(f"{role}: {value}")
        self.chosen.append((role, value))
        return value

    def teacher(self, student: Path | None = None) -> Path | str:
        """--teacher, else the teacher that the student was made from, else the configuration's."""
        if name := self.flags.get("teacher"):
            chosen: Path | str = Path(name) if Path(name).is_dir() else name
        elif student is not None and (made_from := self._made_from(student, "teacher")) and made_from.is_dir():
            chosen = made_from
        else:
            chosen = self.experiment.teacher
        return self._chose("teacher", chosen)

    def model(self, default: Callable[[], Path] | None = None) -> Path:
        """The model of --model, else the step's default one."""
        name = self.flags.get("model")
        chosen = self.run.named_model(name) if name else (default or self.run.default_model)()
        if not name and chosen == self.run / "student" and (training := work_folder(self.run / "distilled")).is_dir():
            say(f"warning: the training in {training} has not ended; this is the student as it was before it")
        return self._fetched("model", chosen)

    def unquantized_model(self) -> Path:
        """--model, or where that is quantized the model that it was made from."""
        path = self.model()
        if not artifact.is_artifact(path) or artifact.load(path, verify=False).kind != "quantized":
            return path
        source = self._input(path, "model")
        if not source.is_dir():
            raise InputError(f"the model {source} that {path} was made from is gone; name it with --model")
        return self._chose("made from", source)

    def _fetched(self, role: str, chosen: Path | str) -> Path:
        """A folder as it is, a Hub id from the Hub. Raises InputError."""
        self._chose(role, chosen)
        if isinstance(chosen, Path):
            return _holds(chosen, ("student", "distilled", "quantized", "onnx"), "model")
        if self.common.dry_run:
            return Path(chosen)  # nothing is fetched, and nothing will look into it
        from whisperq.models.loading import local_folder  # a Hub id: fetching it needs torch's company

        return local_folder(chosen)

    def student(self) -> Path:
        if self.flags.get("model"):
            return _holds(self.model(), ("student", "distilled"), "student")
        path = self.run / "student"
        if not artifact.is_artifact(path):
            raise InputError(f"there is no finished student at {path}; run whisperq init-student first")
        return self._chose("student", _holds(path, ("student", "distilled"), "student"))

    def calibration(self) -> Path:
        path = Path(self.flags["calibration"]) if self.flags.get("calibration") else self.run / "calibration"
        if not artifact.is_artifact(path):
            near = meant(str(path), map(str, self.run.artifacts())) if self.flags.get("calibration") else ""
            raise InputError(f"there is no finished calibration at {path}{near}; run whisperq calibrate first")
        return self._chose("calibration", path)

    def has_calibration(self) -> bool:
        return bool(self.flags.get("calibration")) or artifact.is_artifact(self.run / "calibration")

    def sensitivity(self, name: str) -> Path:
        """--sensitivity, else that of the quantized model `name`, else the only one. Raises WhisperqError."""
        if self.flags.get("sensitivity"):
            return self._chose("sensitivity", Path(self.flags["sensitivity"]))
        found = self.run.sensitivities()
        if not found:
            raise InputError(f"{self.run.root} has no sensitivity/; run whisperq quantize, then whisperq sensitivity")
        if len(found) > 1:
            found = [path for path in found if path.name == name] or found
        if len(found) > 1:
            names = ", ".join(f"--sensitivity {path}" for path in found)
            raise UsageError(f"{self.run.root} holds {len(found)} sensitivities; choose one: {names}")
        return self._chose("sensitivity", found[0])

    def calibrated_model(self, calibration: Path) -> Path:
        """--model, else the model that the calibration names."""
        if self.flags.get("model"):
            return self.model()
        artifact.load(calibration, "calibration")
        path = self._input(calibration, "model")
        if not path.is_dir():
            raise InputError(f"the model {path} that {calibration} was made from is gone; name it with --model")
        return self._chose("model", path)

    def compare(self) -> Path | None:
        name = self.flags.get("compare")
        return self._fetched("compare", self.run.named_model(name)) if name else None

    def sources(self, role: str, flag: str) -> tuple[Source, ...]:
        """The flag's lists, else the configuration's `role`. Raises InputError where there are none."""
        given = self.flags.get(flag) or []
        sources = tuple(self._flag_source(text, flag) for text in given) or getattr(self.experiment, role)
        if not sources:
            raise InputError(
                f"no {role} data: name it in {FILE} under {role}, or give --{flag} LIST "
                f"({'a configuration was read' if self.experiment.path else 'no configuration was found'})"
            )
        for one in sources:
            self._chose(role, one.title)
        return sources

    def speech(self) -> tuple[Source, ...]:
        """--data, else the configuration's validation data, else the sentences that ship with whisperq."""
        named = self.flags.get("data") or self.experiment.validation
        return self.sources("validation", "data") if named else self.embedded_speech()

    def embedded_speech(self) -> tuple[Source, ...]:
        """The sentences that ship with whisperq, for those who have named no recordings."""
        language = self.experiment.language or "en"
        foreign = "" if language == "en" else f", in English though the language is {language}"
        say(f"data: {EMBEDDED}, which ships with whisperq: synthesised speech{foreign}; --data names your own")
        self.chosen.append(("data", EMBEDDED))
        return (source(str(EMBEDDED), Path.cwd(), "the embedded speech"),)

    def _flag_source(self, text: Any, flag: str) -> Source:
        """NAME or NAME=LIST of a test set, LIST or LIST:WEIGHT of training data, else LIST; in Python a Source too."""
        if not isinstance(text, str):
            return source(text, Path.cwd(), f"--{flag}")
        configured = {s.name: s for s in self.experiment.test}
        if flag == "test" and text in configured:
            return configured[text]
        if flag == "test" and configured and re.fullmatch(r"[\w-]+", text) and not os.path.exists(text):
            known = ", ".join(configured)
            raise InputError(
                f"--test {text} is no configured set{meant(text, configured)} and no list; there are {known}"
            )
        name, _, path = text.partition("=")
        if flag == "test" and path and not os.path.exists(text):
            return source(path, Path.cwd(), f"--{flag}", name=name)
        if not text:
            raise UsageError(f"--{flag} needs a list")
        if flag == "train":
            path, weight = _weighted(text)
            return source({"path": path, "weight": weight}, Path.cwd(), f"--{flag}")
        return source(text, Path.cwd(), f"--{flag}")

    def _made_from(self, path: Path, role: str) -> Path | None:
        """An artifact's input as `_input` finds it; None of a foreign folder."""
        return self._input(path, role) if artifact.is_artifact(path) else None

    def _input(self, path: Path, role: str) -> Path:
        """An artifact's input: by content in this run folder or its own, which may have moved, else where it was."""
        entry = artifact.load(path, verify=False).inputs[role]
        runs = (self.run, *map(RunFolder, path.resolve().parents[:2]))  # quantized models lie one folder deeper
        near = (p for run in runs if os.access(run.root, os.R_OK) for p in run.artifacts())
        here = (p for p in near if file_sha256(p / artifact.MANIFEST) == entry["sha256"])
        return next(here, Path(entry["path"]))


def _weighted(text: str) -> tuple[str, float]:
    """LIST or LIST:WEIGHT; a path that is there as it was typed keeps its colons. Raises UsageError."""
    path, colon, number = text.rpartition(":")
    if not colon or Path(text).exists():
        return text, 1.0
    try:
        weight = float(number)
    except ValueError:
        if not Path(path).exists():
            return text, 1.0  # a path with a colon that is not there: so says the error that follows
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise UsageError(f"--train {text}: the weight behind the colon must be a number of at least 0, not {number!r}")
    return path, weight


def _holds(path: Path, kinds: tuple[str, ...], wanted: str) -> Path:
    """The path, unless it is an artifact of another kind or holds models; a foreign folder shows later what it is."""
    if artifact.is_artifact(path):
        if (kind := artifact.load(path, verify=False).kind) not in kinds:
            raise InputError(f"{path} holds {noun(kind)}, but a {wanted} is needed here")
    elif not (path / "config.json").exists() and (inside := models_in(path)):
        more = f" and {len(inside) - NAMED} more" if len(inside) > NAMED else ""
        raise InputError(f"{path} is no model, but holds {', '.join(map(str, inside[:NAMED]))}{more}; name one of them")
    return path
