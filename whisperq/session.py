"""From flags to a step's inputs: the configuration and the run folder's defaults; what was chosen is announced."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whisperq import artifact
from whisperq.config import FILE, Context, Experiment, RunFolder, Source, find_config, read_config, resolve, source
from whisperq.errors import InputError, UsageError
from whisperq.options import Common
from whisperq.report.progress import say


@dataclass
class Session:
    """One command's view of its flags, configuration and run folder."""

    command: str
    common: Common
    flags: Mapping[str, Any]
    experiment: Experiment
    run: RunFolder

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
        if self.experiment.path is not None and not path.exists():
            self.run.root.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{FILE}.partial")
            temporary.write_text(self.experiment.as_yaml())
            temporary.rename(path)

    def _chose(self, role: str, value: Path | str) -> Path | str:
        say(f"{role}: {value}")
        return value

    def teacher(self, student: Path | None = None) -> Path | str:
        """--teacher, else the teacher that the student was made from, else the configuration's."""
        if name := self.flags.get("teacher"):
            chosen: Path | str = Path(name) if Path(name).is_dir() else name
        elif student is not None and (made_from := _input_of(student, "teacher")):
            chosen = made_from
        else:
            chosen = self.experiment.teacher
        return self._chose("teacher", chosen)

    def model(self, default: Callable[[], Path] | None = None) -> Path:
        """--model, else the step's default."""
        name = self.flags.get("model")
        chosen = self.run.named_model(name) if name else (default or self.run.default_model)()
        self._chose("model", chosen)
        if isinstance(chosen, Path):
            return chosen
        from whisperq.models.loading import local_folder  # a Hub id: fetching it needs torch's company

        return local_folder(chosen)

    def student(self) -> Path:
        path = Path(self.flags["model"]) if self.flags.get("model") else self.run / "student"
        if not artifact.is_artifact(path):
            raise InputError(f"there is no finished student at {path}; run whisperq init-student first")
        return self._chose("student", path)

    def calibration(self) -> Path:
        path = Path(self.flags["calibration"]) if self.flags.get("calibration") else self.run / "calibration"
        if not artifact.is_artifact(path):
            raise InputError(f"there is no finished calibration at {path}; run whisperq calibrate first")
        return self._chose("calibration", path)

    def calibrated_model(self, calibration: Path) -> Path:
        """--model, else the model that the calibration names."""
        if self.flags.get("model"):
            return self.model()
        path = Path(artifact.load(calibration, "calibration").inputs["model"]["path"])
        if not path.is_dir():
            raise InputError(f"the model {path} that {calibration} was made from is gone; name it with --model")
        return self._chose("model", path)

    def compare(self) -> Path | None:
        name = self.flags.get("compare")
        if not name:
            return None
        chosen = self.run.named_model(name)
        return self._chose("compare", chosen if isinstance(chosen, Path) else Path(chosen))

    def sources(self, role: str, flag: str) -> tuple[Source, ...]:
        """The flag's lists, else the configuration's `role`. Raises InputError where there are none."""
        given = self.flags.get(flag) or []
        sources = tuple(self._flag_source(text, flag) for text in given) or getattr(self.experiment, role)
        if not sources:
            raise InputError(
                f"no {role} data: name it in {FILE} under {role}, or give --{flag} LIST "
                f"({'a configuration was read' if self.experiment.path else 'no configuration was found'})"
            )
        return tuple(self._chose(role, s.title) and s for s in sources)

    def _flag_source(self, text: str, flag: str) -> Source:
        name, _, path = text.rpartition("=")
        if flag == "test" and name and not Path(text).exists():
            return source(path, Path.cwd(), f"--{flag}", name=name)
        if not text:
            raise UsageError(f"--{flag} needs a list")
        return source(text, Path.cwd(), f"--{flag}")


def _input_of(path: Path, role: str) -> Path | None:
    entry = artifact.load(path, verify=False).inputs.get(role) if artifact.is_artifact(path) else None
    return Path(entry["path"]) if entry and Path(entry["path"]).is_dir() else None
