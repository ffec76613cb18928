"""Every command as a function of its name: `import whisperq as wq` offers them.

    student = wq.init_student("openai/whisper-base", layers=3, out="student")
    ranges = wq.calibrate(student, data=["a.jsonl", wq.Source(path="b.jsonl", limit=100)])
    small = wq.quantize(student, ranges, out="small", weight_bits=4)

A call does what its command does, with the same checks, defaults, run folder and whisperq.yaml, and gives back what was
made. Signatures are made of the commands' inputs and settings. Announcements go to the log `whisperq`; with
`progress=True` they are shown, and progress bars too.
"""

import ast
import io
import os
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any

from whisperq.artifact import Artifact, load
from whisperq.checks import typed
from whisperq.cli.commands import COMMANDS, Command, InputFlag, perform
from whisperq.cli.resolve import call_of
from whisperq.cli.session import Session
from whisperq.config import Experiment, Source, source
from whisperq.disk import first_process
from whisperq.errors import (
    InputError,
    Interrupted,
    ReadError,
    TrainingError,
    UsageError,
    WhisperqError,
    meant,
)
from whisperq.former import todays_settings
from whisperq.jobs.progress import announced
from whisperq.settings import Common

__all__ = [
    "Artifact", "InputError", "Interrupted", "ReadError", "Source", "TrainingError", "UsageError", "WhisperqError",
    "function", "load",
]  # fmt: skip

PathLike = str | os.PathLike[str]  # an artifact too
Data = PathLike | Source | Mapping[str, Any]  # as in whisperq.yaml
COMMON = ("run", "config", "out", "force", "seed", "device", "dtype")  # the other two are for a shell
PLACES = ("run", "config", "out")
EXPERIMENT = {  # what whisperq.yaml says of all commands
    "language": "The prompt's language, None for an English-only model; default: the configuration's, else en.",
    "task": "transcribe or translate; default: the configuration's, else transcribe.",
    "normalizer": "Text normaliser of sets that name none; default: the configuration's, else english.",
}
PROGRESS = "Show announcements and progress bars on standard error."
STEP_FILES = Path(__file__).parent / "steps"


@dataclass(frozen=True)
class Argument:
    """One parameter of a step's function."""

    name: str
    help: str
    annotation: Any
    default: Any = None
    kind: Any = Parameter.KEYWORD_ONLY

    def parameter(self) -> Parameter:
        return Parameter(self.name, self.kind, default=self.default, annotation=self.annotation)


def arguments(command: Command) -> Iterator[Argument]:
    """Inputs, the settings by keyword, and what all steps have; of two with one name the first is meant."""
    for flag in command.inputs:
        one: Any = Data if is_data(flag) else PathLike
        hint = one | Iterable[one] if flag.many else one
        default = Parameter.empty if flag.positional else None
        yield Argument(flag.name, flag.help, hint if flag.positional else hint | None, default, _POSITIONAL)
    for kind, names in ((command.settings, None), (Common, COMMON)):
        hints = typing.get_type_hints(kind)
        for f in (f for f in fields(kind) if names is None or f.name in names):
            hint = hints[f.name] | os.PathLike[str] if f.name in PLACES else hints[f.name]
            help = command.shared.get(f.name) if kind is Common else None
            yield Argument(f.name, help or f.metadata["help"], hint, f.default)
    hints = typing.get_type_hints(Experiment)
    for f in (f for f in fields(Experiment) if f.name in EXPERIMENT):
        yield Argument(f.name, EXPERIMENT[f.name], hints[f.name], f.default)
    yield Argument("progress", PROGRESS, bool, False)


_POSITIONAL = Parameter.POSITIONAL_OR_KEYWORD


def is_data(flag: InputFlag) -> bool:
    """Whether it takes utterance lists, and not files as they are."""
    return flag.many and not flag.positional


@cache
def function(name: str) -> Callable[..., Artifact | str]:
    """The step's function: an artifact, or of transcribe the text, from a call with the command's settings."""
    command = next(c for c in COMMANDS if c.name.replace("-", "_") == name)
    own: dict[str, Argument] = {}
    for argument in arguments(command):
        own.setdefault(argument.name, argument)
    signature = Signature([a.parameter() for a in own.values()], return_annotation=str if command.text else Artifact)

    def call(*args: Any, **keywords: Any) -> Artifact | str:
        keywords = todays_settings(command.name, keywords)
        if unknown := next((k for k in keywords if k not in own), None):
            raise TypeError(f"{name}() got an unexpected keyword argument {unknown!r}{meant(unknown, own)}")
        try:
            given = signature.bind(*args, **keywords).arguments
        except TypeError as error:
            raise TypeError(f"{name}(): {error}") from None
        with announced("shown" if given.pop("progress", False) else "logged"):
            return called(command, given)

    call.__name__ = call.__qualname__ = name
    call.__module__, call.__doc__ = "whisperq", documentation(name, own.values())
    call.__signature__ = signature  # type: ignore[attr-defined]  # `inspect` looks for it, on any function
    return call


def documentation(name: str, own: Iterable[Argument]) -> str:
    """Help text of a step: the docstring of its function, and a line for each argument."""
    lines = [step_docstring(name), "", "Arguments:"]
    return "\n".join([*lines, *(f"    {a.name}: {a.help}" for a in own)])


def step_docstring(name: str) -> str:
    """The docstring of a step's function, read from its source: importing it would load torch."""
    tree = ast.parse((STEP_FILES / f"{name}.py").read_text(encoding="utf-8"))
    function = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
    return ast.get_docstring(function) or ""


def called(command: Command, given: Mapping[str, Any]) -> Artifact | str:
    """The command's call with these arguments, as its flags would have it; only what was given counts as said."""
    inputs = {f.name: as_input(f, given[f.name]) for f in command.inputs if given.get(f.name) is not None}
    own = {f.name: given[f.name] for f in fields(command.settings) if f.name in given}
    root = {"run": os.environ.get("WHISPERQ_RUN", Common.run)}
    session = Session.open(command.name, Common(**root | {n: given[n] for n in COMMON if n in given}), inputs)
    said = {n: given[n] for n in EXPERIMENT if n in given and n not in own}
    try:
        experiment = replace(session.experiment, **typed(Experiment, said, command.name))
    except InputError as error:
        raise UsageError(str(error)) from None
    settings = command.settings(**{**experiment.defaults.get(command.name, {}), **own})
    asked = replace(session, experiment=experiment, output=(written := io.StringIO()))
    result = perform(call_of(command), asked, settings)
    if isinstance(result, str):
        return written.getvalue().removesuffix("\n") if settings.format == "text" else written.getvalue()
    if command.one_run and session.common.out is None and first_process():
        session.keep_configuration()
    return result


def as_input(flag: InputFlag, value: Any) -> Any:
    """A Python argument as the flag's value: text as a shell gives it, or data that needs no parsing."""
    if not flag.many:
        return as_path(flag, value)
    if flag.name == "test" and isinstance(value, Mapping):  # as in whisperq.yaml: by name
        return tuple(source(entry, Path.cwd(), "--test", name=str(name)) for name, entry in value.items())
    alone = isinstance(value, str | os.PathLike | Source | Mapping) or not isinstance(value, Iterable)
    several = [value] if alone else list(value)
    if not several:
        raise UsageError(f"--{flag.name} is empty; leave it out, or name what is meant")
    if not is_data(flag):
        return tuple(as_path(flag, one) for one in several)
    ready = str | Source | Mapping
    return tuple(one if isinstance(one, ready) else Path(as_path(flag, one)) for one in several)


def as_path(flag: InputFlag, value: Any) -> str:
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    raise UsageError(f"--{flag.name} is {value!r}, but must be a path")
