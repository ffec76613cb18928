"""Commands performed: a step called with its inputs by name, or what it made before.

Steps are imported when they are called: the command line itself needs no torch. Under --dry-run their calls are written
down instead.
"""

import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from whisperq.artifact import Artifact, Finished
from whisperq.cli import planning
from whisperq.cli.session import Session
from whisperq.declaration import Declaration as Command
from whisperq.declaration import InputFlag
from whisperq.declared import DECLARED as COMMANDS
from whisperq.jobs.progress import say
from whisperq.names import LONGEST, file_name
from whisperq.stopping import raise_swallowed

__all__ = [
    "COMMANDS", "Command", "CommandCall", "InputFlag", "label", "model_label", "part", "perform", "run_step", "step",
    "usual",
]  # fmt: skip

CommandCall = Callable[[Session, Any], Artifact | str]  # from a session and settings to what a step made, or text


def perform(call: CommandCall, session: Session, settings: Any) -> Artifact | str:
    """A command's call; what this very call has made before is given back as it is."""
    try:
        return call(session, settings)
    except Finished as finished:
        say(f"{finished.artifact.path} is finished already, by this very command; nothing was done")
        return finished.artifact


def step(name: str) -> Callable[..., Any]:
    """The public function of a step's file; under --dry-run a function that records the call."""
    return planning.instead_of(name) or part(name, name)


def run_step(s: Session, name: str, out: Path, config: Any, **inputs: Any) -> Artifact:
    """The step with its inputs, by the names that its function gives them."""
    return step(name)(**inputs, out=out, config=config, context=s.context())


def part(name: str, noun: str) -> Callable[..., Any]:
    """The object `noun` of the file of step `name`; under --dry-run no step is imported, and a stand-in is returned."""
    if planning.under_way():
        return planning.parts
    module = import_module(f"whisperq.steps.{name}")
    raise_swallowed()  # in seconds of importing libraries
    return getattr(module, noun)


def usual(declared: Command, s: Session, config: Any) -> Artifact:
    """The call of a step that has none of its own: an input for each flag, and the place that is declared."""
    inputs = {flag.name: flag.find(s) if flag.find else s.flags.get(flag.name) for flag in declared.inputs}
    model = inputs.get("model")
    place = s.out((declared.place or declared.name).format(model=model and model_label(s, model)))
    return run_step(s, declared.step, place, config, **inputs)


def label(text: str) -> str:
    """A folder's name for a model or a site pattern."""
    name = re.sub(r"[^\w.+-]+", "-", text.replace("*", "all").replace(",", "+")).strip("-").lstrip(".")
    return name if name and len(name.encode()) <= LONGEST else file_name(text)


def model_label(session: Session, path: Path) -> str:
    return label(Path(session.flags.get("model") or path).name or path.resolve().name)
