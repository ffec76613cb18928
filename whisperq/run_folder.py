"""The run folder: one experiment, and where its models lie."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from whisperq.artifact import is_artifact
from whisperq.errors import InputError, UsageError, hub_meant, meant
from whisperq.options import QuantizeConfig
from whisperq.schemes import in_short, scheme_of

NAMED = 6  # artifacts of one folder that a sentence names; more are counted


@dataclass(frozen=True)
class RunFolder:
    """One experiment's folder; every command has its place in it."""

    root: Path

    def __truediv__(self, name: str) -> Path:
        return self.root / name

    def default_model(self) -> Path:
        """distilled/, else student/."""
        for name in ("distilled", "student"):
            if is_artifact(self.root / name):
                return self.root / name
        raise InputError(
            f"{self.root} holds no distilled/ and no student/; run whisperq init-student first, or name a --model"
        )

    def quantized(self) -> list[Path]:
        return _finished(self.root / "quantized")

    def sensitivities(self) -> list[Path]:
        return _finished(self.root / "sensitivity")

    def artifacts(self) -> list[Path]:
        return _finished(self.root) + self.quantized()

    def only_quantized(self) -> Path:
        found = self.quantized()
        if len(found) > 1:
            names = ", ".join(f"--model {p.name}" for p in found)
            raise UsageError(f"{self.root / 'quantized'} holds {len(found)} models; choose one: {names}")
        if not found:
            raise InputError(f"{self.root} holds no quantized model; run whisperq quantize first, or name a --model")
        return found[0]

    def named_model(self, name: str) -> Path | str:
        """A path, a name in this run folder (distilled, student, gemm-w8a8), or else a Hub id."""
        for path in (Path(name), self.root / name, self.root / "quantized" / name):
            if os.path.isdir(path):
                return path
        if os.path.isfile(name):
            saved = "one as transformers saves it, with config.json and safetensors"
            owner = next((p for p in Path(name).parents if (p / "config.json").is_file()), saved)
            raise InputError(f"{name} is a file, but a model is a folder; name {owner}")
        ours = Path(name).parent == self.root  # run/distiled is no Hub id
        if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not name.startswith(".") and not ours:
            return name
        here = [p.name for p in self.artifacts() if (p / "config.json").is_file()]
        near = meant(Path(name).name, here) or hub_meant(name)
        raise InputError(f"there is no model {name}{near}; {self._holding(here)}")

    def _holding(self, names: list[str]) -> str:
        """What is in this folder, or that there is none: a job may have begun in another working folder."""
        if os.path.isdir(self.root):
            return f"the run folder {self.root} holds {', '.join(names) or 'none'}"
        return f"nor is there a run folder {self.root}: name yours with --run or WHISPERQ_RUN"

    def evaluation(self, name: str) -> Path:
        """An evaluation or score by its path or its name in the run folder, or a hypotheses file."""
        places = (Path(name), self / name, self / "eval" / name, self / "scores" / name)
        if found := next((place for place in places if os.path.exists(place)), None):
            return found
        folders = [self / place for place in ("eval", "scores") if (self / place).is_dir()]
        here = sorted(p.name for folder in folders for p in folder.iterdir() if not p.name.startswith("."))
        known = f"{meant(name, here)}; {self._holding(here)}{self._maker(name)}"
        raise InputError(f"there is no evaluation or hypotheses file {name}{known}")

    def _maker(self, name: str) -> str:
        """The command that makes an evaluation of this name, where a model here is named in it."""
        model, _, runtime = name.rpartition("-")
        named = model in (p.name for p in self.artifacts())
        return f"; whisperq eval --model {model} --runtime {runtime} makes it" if named else ""


def models_in(folder: Path) -> list[Path]:
    """Our models in a folder, or in those that lie in it: of a run folder distilled, student and the quantized ones."""
    places = [folder, *(p for p in sorted(folder.iterdir()) if p.is_dir() and os.access(p, os.R_OK | os.X_OK))]
    return [p for place in places for p in _finished(place) if (p / "config.json").is_file()]


def work_folder(out: Path) -> Path:
    """Where the training that makes `out` keeps its checkpoints."""
    return out.parent / ("checkpoints" if out.name == "distilled" else f"{out.name}-checkpoints")


def _finished(folder: Path) -> list[Path]:
    """A folder's artifacts: a job killed at the last moment can leave a whole one under a hidden name."""
    here = folder.iterdir() if folder.is_dir() else ()
    return sorted(p for p in here if is_artifact(p) and not p.name.startswith("."))


def artifact_at(path: Path) -> Path:
    """The path itself. Raises InputError, with what is in it or near, where it is no artifact."""
    if is_artifact(path):
        return path
    inside, beside = _inside(path), [str(p) for p in _finished(path.parent)]
    hint = f"; in it are {', '.join(inside)}" if inside else meant(str(path), beside)
    lacks = "it has no manifest.json" if os.path.exists(path) else "nothing is there"
    raise InputError(f"{path} is not a finished whisperq artifact: {lacks}{hint}")


def _inside(path: Path) -> list[str]:
    """A folder's artifacts, and those of its folders, quantized/ or outliers/<model>/; many are counted."""
    names = [str(p) for p in _finished(path)]
    for folder in sorted(path.iterdir()) if path.is_dir() else ():
        if not folder.is_dir() or is_artifact(folder) or folder.name.startswith("."):
            continue
        found = _finished(folder) + [p for child in sorted(folder.iterdir()) for p in _finished(child)]
        names += [f"{folder}/ ({len(found)} artifacts)"] if len(found) > NAMED else map(str, found)
    return names


def _short(text: str) -> str:
    """Text as a part of a folder's name."""
    return re.sub(r"[^\w.+-]+", "-", text.replace("*", "all").replace(",", "+")).strip("-")


def scheme(config: QuantizeConfig) -> str:
    """A quantized model's folder: gemm-w8a8, gemm-w4-g64-mse (weights alone), gemm-w8a8-dynamic-smooth0.5."""
    parts = in_short(scheme_of(config))
    parts += [f"by-{config.observer}"] if config.observer is not None else []
    parts += {"auto": [], "none": ["unscaled"]}.get(config.smooth, [f"smooth{config.smooth}"])
    parts += [f"massive-{_short(config.massive)}"] if config.massive is not None else []
    parts += [f"budget{config.budget:g}"] if config.budget != QuantizeConfig.budget else []
    parts += [f"keep{config.keep_worst}"] if config.keep_worst is not None else []
    return "-".join(parts)
