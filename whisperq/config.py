"""whisperq.yaml and flags -> frozen dataclasses.

    teacher: openai/whisper-large-v2        # Hub id or folder
    language: en                            # the prompt's language, null for an English-only model
    task: transcribe
    normalizer: english                     # of the sets that name none
    train:       [train.jsonl, {dataset: mozilla-foundation/common_voice_16_1, config: en, split: train,
                                weight: 2, streaming: true}]
    validation:  [validation.jsonl]
    test:        {clean: {path: clean.jsonl, normalizer: english, group: id}}
    defaults:    {distill: {max_steps: 1000}}

Relative paths count from the file's own folder; ${NAME} is taken from the environment.
A flag wins over `defaults`, which win over the paper's values in options.py.
"""

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from whisperq.checks import typed
from whisperq.declared import SETTINGS
from whisperq.errors import InputError, UsageError, meant
from whisperq.former import todays_settings
from whisperq.settings import NormalizerName

FILE = "whisperq.yaml"
SCALARS = ("teacher", "language", "task", "normalizer")
PAPER_TEACHER = "openai/whisper-large-v2"
T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """Where utterances come from: an utterance list, a folder, or a data set."""

    path: str | None = None  # utterance list, folder with metadata.csv/.jsonl, or parquet
    dataset: str | None = None  # Hub id or local folder for datasets.load_dataset
    config: str | None = None
    split: str | None = None
    text_column: str | None = None
    audio_column: str = "audio"
    id_column: str | None = None
    speaker_column: str | None = None
    name: str = ""  # the test set's name
    normalizer: NormalizerName | None = None
    group: str | None = None  # id (in-distribution) or ood
    weight: float = 1.0  # passes over it in each training epoch; where any source is streamed, its part of the data
    limit: int | None = None  # first N utterances only
    streaming: bool = False  # never download it whole; training data alone
    licence: str | None = None  # what must be accepted before it can be read
    note: str | None = None

    @property
    def title(self) -> str:
        return self.path or ":".join(p for p in (self.dataset, self.config, self.split) if p)

    def as_mapping(self) -> dict[str, Any]:
        """The entry that whisperq.yaml would have: all fields that are not defaults."""
        return {f.name: v for f in fields(Source) if (v := getattr(self, f.name)) != f.default}


def one_normalizer(sources: Sequence[Source], usual: NormalizerName, what: str) -> NormalizerName:
    """The normaliser of all these lists; `usual`: of those that name none. Raises UsageError where they differ."""
    named = [one.normalizer or usual for one in sources]
    if len(set(named)) > 1:
        titles = (one.name or one.title for one in sources)
        listed = ", ".join(f"{title}: {normalizer}" for title, normalizer in zip(titles, named, strict=True))
        raise UsageError(f"{what} counts the words of all lists by one normaliser, and these name several ({listed})")
    return named[0] if named else usual


@dataclass(frozen=True)
class Experiment:
    """What whisperq.yaml says, paths resolved."""

    teacher: str = PAPER_TEACHER
    language: str | None = "en"
    task: Literal["transcribe", "translate"] = "transcribe"
    normalizer: NormalizerName = "english"
    train: tuple[Source, ...] = ()
    validation: tuple[Source, ...] = ()
    test: tuple[Source, ...] = ()
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    path: Path | None = None
    says_language: bool = False  # whether the file has the key; without it English is no more than a default

    def as_yaml(self) -> str:
        content = {
            "teacher": self.teacher,
            **({"language": self.language} if self.says_language else {}),
            "task": self.task,
            "normalizer": self.normalizer,
            "train": [s.as_mapping() for s in self.train],
            "validation": [s.as_mapping() for s in self.validation],
            "test": {s.name: {k: v for k, v in s.as_mapping().items() if k != "name"} for s in self.test},
            "defaults": {k: dict(v) for k, v in self.defaults.items()},
        }
        return yaml.safe_dump(content, sort_keys=False)


def find_config(option: str | None, run: Path) -> Path | None:
    """--config, else the working folder's whisperq.yaml, else the run folder's."""
    if option is not None:
        if not Path(option).is_file():
            raise InputError(f"there is no configuration file {option}")
        return Path(option)
    return next((p for p in (Path(FILE), run / FILE) if p.is_file()), None)


def read_config(path: Path | None) -> Experiment:
    """Raises InputError in one sentence for YAML that is damaged or says what this version does not know."""
    if path is None:
        return Experiment()
    content = _content(path)
    known = {f.name for f in fields(Experiment)} - {"path", "says_language"}
    if unknown := _strange(content, known):
        raise InputError(f"{path}: unknown key {unknown!r}{meant(unknown, known)}; known: {', '.join(sorted(known))}")
    base = path.resolve().parent
    content["says_language"] = "language" in content
    content |= typed(Experiment, {k: content[k] for k in SCALARS if k in content}, str(path))
    content |= {"language": None} if content.get("language") == "auto" else {}  # as transcribe's flag has it
    for key in ("train", "validation", "test"):
        content[key] = _sources(content.get(key), base, f"{path}: {key}")
    if "teacher" in content:
        content["teacher"] = _local(content["teacher"], base, str(path))
    content["defaults"] = _check_defaults(content.get("defaults") or {}, path)
    return Experiment(**content, path=path.resolve())


def _content(path: Path) -> dict[Any, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content := {} if content is None else content, dict):
        raise InputError(f"{path} must hold a mapping such as 'teacher: ...'")
    return content


def _check_defaults(defaults: Any, path: Path) -> dict[str, dict[str, Any]]:
    if not isinstance(defaults, dict) or not all(isinstance(v, dict) for v in defaults.values()):
        raise InputError(f"{path}: defaults must map a command to its settings, such as distill: {{max_steps: 1000}}")
    if unknown := _strange(defaults, set(SETTINGS)):
        near, known = meant(unknown, SETTINGS), ", ".join(SETTINGS)
        raise InputError(f"{path}: defaults: unknown command {unknown!r}{near}; known: {known}")
    return {command: _section(command, values, f"{path}: defaults: {command}") for command, values in defaults.items()}


def _section(command: str, values: dict[Any, Any], where: str) -> dict[str, Any]:
    section = {str(k).replace("-", "_"): v for k, v in values.items()}
    try:
        section = todays_settings(command, section)
    except UsageError as error:
        raise InputError(f"{where}: {error}") from None
    if unknown := _strange(section, known := {f.name for f in fields(SETTINGS[command])}):
        raise InputError(f"{where}: unknown setting {unknown!r}{meant(unknown, known)}")
    return typed(SETTINGS[command], section, where)


def _strange(given: Mapping[Any, Any], known: set[str]) -> str | None:
    """The first key that is not known; YAML's keys can be numbers and truth values too."""
    return next((str(key) for key in given if key not in known), None)


def _sources(value: Any, base: Path, where: str) -> tuple[Source, ...]:
    if value is None:
        return ()
    if isinstance(value, dict) and where.endswith("test"):
        return tuple(source(entry, base, f"{where}: {name}", name=str(name)) for name, entry in value.items())
    entries = value if isinstance(value, list) else [value]
    return tuple(source(entry, base, where) for entry in entries)


def source(entry: Any, base: Path, where: str, name: str = "") -> Source:
    """A path, or a mapping with Source's keys or a Source, as a Source with an absolute path."""
    entry = entry.as_mapping() if isinstance(entry, Source) else entry
    entry = {"path": entry} if isinstance(entry, str | os.PathLike) else entry
    if not isinstance(entry, Mapping) or bool(entry.get("path")) == bool(entry.get("dataset")):
        raise InputError(f"{where}: a source is a path, or a mapping with either path or dataset")
    if unknown := _strange(entry, known := {f.name for f in fields(Source)}):
        raise InputError(f"{where}: unknown key {unknown!r} in a source{meant(unknown, known)}")
    entry = typed(Source, {**entry, "name": name or entry.get("name", "")}, where)
    if entry.get("path"):
        entry["path"] = os.path.normpath(base / _expand(entry["path"], base, where))
    elif (base / (expanded := _expand(entry["dataset"], base, where))).is_dir():
        entry["dataset"] = str(base / expanded)
    if not 0 <= entry.get("weight", 1.0) < math.inf:
        raise InputError(f"{where}: a source's weight is a number of passes in each epoch, not {entry['weight']}")
    if entry.get("streaming") and not where.endswith("train"):
        raise InputError(f"{where}: `streaming` is for training data; all others are read as a whole")
    if not entry["name"]:
        entry["name"] = Path(entry.get("path") or entry["dataset"]).stem
    return Source(**entry)


def _expand(text: str, base: Path, where: str) -> str:
    """`text` with environment variables and ~ expanded; a path that exists as written stays as it is."""
    if os.path.exists(base / text):
        return text
    expanded = os.path.expanduser(os.path.expandvars(text))
    if missing := re.search(r"\$\{?(\w+)", expanded):
        raise InputError(f"{where}: the environment variable {missing[1]} is not set")
    return expanded


def _local(name: str, base: Path, where: str) -> str:
    """A model's name: a folder where there is one, else a Hub id."""
    name = _expand(name, base, where)
    folder = base / name
    return str(folder) if folder.is_dir() or name.startswith((".", "/")) else name


def resolve(kind: type[T], command: str, experiment: Experiment, flags: Mapping[str, Any]) -> T:
    """A command's settings: flags over the configuration's defaults over the paper's values.

    Raises UsageError for a value that options.py does not allow.
    """
    # T is any dataclass, which no bound says.
    given = {f.name: flags[f.name] for f in fields(kind) if flags.get(f.name) is not None}  # type: ignore[arg-type]
    return kind(**{**experiment.defaults.get(command, {}), **given})
