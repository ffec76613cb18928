"""What was measured: a model by its depth, gate, training and numbers, apart from its seed, and what ran it."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from whisperq import artifact
from whisperq.hashing import bytes_sha256
from whisperq.kinds.models import Quantized
from whisperq.kinds.scores import Evaluation
from whisperq.report.gathering import Entry, Gathered
from whisperq.report.lineage_commands import unusual
from whisperq.report.unique_names import Named, labels_apart
from whisperq.schemes import told_apart

FLOAT = "float"
# Of what runs a model these change no result that is compared, or stand in a column of their own.
UNSAID = ("runtime", "batch_size", "normalizer", "scorer", "measure", "skip_bad")
# Of what every command is told these change what a model writes: the usual value, and what else stands for it.
TOLD = {"dtype": ("float32", "auto"), "language": ("en",), "task": ("transcribe",)}

# Of init-student: which of the teacher's layers the student began with.
LAYERS = ("copy_rule", "encoder_indices", "decoder_indices")


@dataclass(frozen=True)
class Model:
    """Runs with equal models are repetitions: they differ in their seed alone."""

    name: str  # "student", or a foreign model's folder
    training: str  # which of several trainings, "" where there is but one
    encoder_layers: int
    decoder_layers: int  # 0 of a CTC model
    gate: str
    numbers: str = FLOAT  # or how it is quantized

    @property
    def layers(self) -> str:
        return f"{self.encoder_layers} + {self.decoder_layers}" if self.decoder_layers else str(self.encoder_layers)

    @property
    def depth(self) -> tuple[int, int]:
        return self.encoder_layers, self.decoder_layers

    @property
    def origin(self) -> str:
        return f"{self.name}, {self.training}" if self.training else self.name

    @property
    def title(self) -> str:
        gate = "" if self.gate == "none" else f", gate {self.gate}"
        return f"{self.origin}, {self.layers} layers{gate}"

    def order(self) -> tuple[Any, ...]:
        ours, depth = self.name.startswith("student"), [-n for n in self.depth]
        return ours, self.training, depth, self.numbers != FLOAT, self.numbers


def plain_last(gate: str) -> tuple[bool, str]:
    """No gate first, as the papers' tables have it."""
    return gate != "none", gate


@dataclass(frozen=True)
class Subject:
    """A model folder of one seed."""

    model: Model
    seed: int | None  # None of a model that nobody here trained
    folder: Path
    origin: Named  # the training, or the foreign model


class Subjects:
    """Finds the subject of an artifact's input."""

    def __init__(self, gathered: Gathered) -> None:
        self.gathered = gathered
        self.trainings = _trainings(gathered)
        self.apart: dict[str, str] = {}
        self.apart = labels_apart(subject.origin for _, subject in self._used())
        self.apart |= labels_apart(named for named, _ in self._used())

    def _used(self) -> Iterator[tuple[Named, Subject]]:
        """The models of all evaluations, outliers and distortions, each where its numbers will stand."""
        for entry in self.gathered.of_kind("evaluation", "outliers", "sensitivity"):
            for role in ("model", "compare"):
                if (subject := self.of_input(entry, role)) is not None:
                    sha256 = entry.artifact.inputs[role]["sha256"]
                    found = self.gathered.by_hash.get(sha256)
                    path = found.name if found else str(subject.folder)
                    yield Named(subject.model, (subject.seed, *_place(entry)), sha256, path), subject

    def of_input(self, entry: Entry, role: str = "model") -> Subject | None:
        """The model that an entry's input names; None where no config.json is left to read its layers from."""
        found = self.gathered.input(entry, role)
        if found is not None:
            return self.of_model(found)
        named = entry.artifact.inputs.get(role)
        if named is None:
            return None
        folder = Path(named["path"])
        if not (folder / "config.json").is_file():
            return None
        if artifact.is_artifact(folder):
            return self.of_model(Entry(artifact.load(folder, verify=False), named["sha256"], str(folder)))
        return self._titled(_model(folder, model_name(folder), ""), None, folder, (named["sha256"], str(folder)))

    def of_model(self, entry: Entry) -> Subject | None:
        """A student, a distilled, quantized or exported model."""
        if not (entry.path / "config.json").is_file():
            return None
        chain = [entry, *self.gathered.ancestors(entry)]
        trained = next((e for e in chain if e.kind in ("distilled", "student")), None)
        quantized = next((e for e in chain if e.kind == "quantized"), None)
        if trained is None:
            root = chain[-1].artifact.inputs["model"]
            name, training, seed = model_name(Path(root["path"])), "", None
            origin = root["sha256"], root["path"]
        else:
            name = "student" if trained.kind == "distilled" else "untrained student"
            training, seed = self.trainings.get(trained.sha256, ""), trained.config.get("seed")
            origin = trained.sha256, trained.name
        described = next((e.path for e in chain if e.kind != "onnx"), entry.path)  # stock graphs tell of no gate
        model = _model(described, name, training, numbers(quantized, seed))
        subject = self._titled(model, seed, entry.path, origin)
        label = self.apart.get(entry.sha256, "") if entry.sha256 != origin[0] else ""
        return replace(subject, model=_labelled(subject.model, label))

    def _titled(self, model: Model, seed: int | None, folder: Path, origin: tuple[str, str]) -> Subject:
        """origin: sha256 and path of the training or the foreign model, whose label the name gets."""
        label = self.apart.get(origin[0])
        named = replace(model, name=f"{model.name} ({label})") if label else model
        return Subject(named, seed, folder, Named(replace(model, numbers=FLOAT), seed, *origin))


def _place(entry: Entry) -> tuple[str, ...]:
    if entry.kind == "evaluation":
        return execution(entry), entry.results["device"]
    sites = observed_sites(entry) if entry.kind == "outliers" else ""
    return entry.kind, sites, entry.artifact.inputs["data"]["sha256"]


def observed_sites(entry: Entry) -> str:
    """Sites of an outlier artifact: the pattern that was asked for, or the name of the default."""
    return entry.config.get("layer") or ("blocks" if entry.config.get("massive") else "attention outputs")


def _labelled(model: Model, label: str) -> Model:
    """Made from the same model as others of its title: it is the numbers that differ, or a float model's graph."""
    if not label:
        return model
    if model.numbers == FLOAT:
        return replace(model, name=f"{model.name} ({label})")
    return replace(model, numbers=f"{model.numbers} ({label})")


def model_name(folder: Path) -> str:
    """A model's name: its folder's, or OWNER/NAME in the Hub's cache (models--OWNER--NAME/snapshots/HASH)."""
    hub = next((p.name for p in (folder, *folder.parents) if p.name.startswith("models--")), None)
    return hub.removeprefix("models--").replace("--", "/") if hub else folder.name


def numbers(quantized: Entry[Quantized] | None, seed: int | None = None) -> str:
    """gemm W8A8, gemm W4A8, groups of 64, mixed 3.5 bit; seed: the training's, which goes without saying."""
    if quantized is None:
        return FLOAT
    return told_apart(quantized.results, quantized.config, seed)


def execution(entry: Entry[Evaluation]) -> str:
    """What ran an evaluation, with the settings that are not the usual ones."""
    changed = {k: v for k, v in unusual("eval", entry.config).items() if k not in UNSAID}
    said = [f"{name.replace('_', ' ')} {value}" for name, value in changed.items()]
    return ", ".join([entry.results["runtime"], *said, *told(entry)])


def told(entry: Entry) -> list[str]:
    """Number format, language and task that a command was told, where they are not the usual ones."""
    changed = {k: v or "auto" for k in TOLD if (v := entry.config.get(k, TOLD[k][0])) not in TOLD[k]}
    return [f"{name} {value}" for name, value in changed.items()]


def _model(folder: Path, name: str, training: str, numbers: str = FLOAT) -> Model:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    encoder = config.get("encoder_layers", config.get("num_hidden_layers", 0))
    return Model(name, training, encoder, config.get("decoder_layers", 0), _gate(config), numbers)


def _gate(config: Mapping[str, Any]) -> str:
    """headwise; or, where it is not the usual one, headwise, init 0.25, none in cross-attention."""
    if (kind := config.get("gate", "none")) == "none":
        return kind
    said = [f"init {start:g}"] if (start := config.get("gate_init", 0.5)) != 0.5 else []
    return ", ".join([kind, *said, *([] if config.get("cross_gate", True) else ["none in cross-attention"])])


def _trainings(gathered: Gathered) -> dict[str, str]:
    """sha256 of a trained model -> its training, where there are several: the folder common to all trained alike."""
    groups: dict[str, list[Entry]] = {}
    for entry in gathered.of_kind("distilled"):
        groups.setdefault(_condition(entry, gathered.input(entry, "student")), []).append(entry)
    if len(groups) < 2:
        return {}
    titles = _apart([os.path.commonpath([os.path.dirname(e.name) for e in alike]) for alike in groups.values()])
    return {e.sha256: title for title, alike in zip(titles, groups.values(), strict=True) for e in alike}


def _condition(entry: Entry, student: Entry | None) -> str:
    """All that a training depends on but its seed, and of its student but what a title says: depth and gate."""
    settings = {name: value for name, value in entry.config.items() if name != "seed"}
    chosen = unusual("init-student", student.config) if student else {}  # of one that is gone, the usual ones
    settings |= {name: value for name, value in chosen.items() if name in LAYERS}
    inputs = {role: named["sha256"] for role, named in entry.artifact.inputs.items() if role != "student"}
    return bytes_sha256(json.dumps([settings, inputs], sort_keys=True).encode())


def _apart(titles: Sequence[str]) -> Iterable[str]:
    """The titles, numbered where they are equal."""
    return [
        t if titles.count(t) == 1 else f"{t or 'training'} ({titles[:i].count(t) + 1})" for i, t in enumerate(titles)
    ]


def as_columns(model: Model) -> dict[str, Any]:
    """The model's fields as columns of a CSV line."""
    return asdict(model)
