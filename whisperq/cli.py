"""The command line: one Typer command for each entry of COMMANDS, made from its dataclass of settings.

Exit codes: 0 done, 1 unexpected, 2 usage, 3 bad input, 75 checkpointed. Results go to stdout, all else to stderr.
"""

import inspect
import json
import os
import sys
import traceback
import types
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from whisperq import __version__
from whisperq.artifact import Artifact, Finished, load
from whisperq.commands import COMMANDS, Command, InputFlag
from whisperq.disk import first_process
from whisperq.errors import WhisperqError
from whisperq.flags import Common
from whisperq.report.progress import say
from whisperq.report.tables import tables
from whisperq.session import Session

BAD_PATH = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)

app = typer.Typer(
    help="Make Whisper small and fully INT8, honestly measured.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def parameter(
    name: str, annotation: Any, default: str | None, help: str, off: str | None = None, **extra: Any
) -> inspect.Parameter:
    """A keyword option; None where it is not given, so that a configuration can fill it.

    off: a switch's opposite, by default --no-<name>; "" for a switch without one.
    """
    flag = name.replace("_", "-")
    opposite = f"no-{flag}" if off is None else off
    flags = f"--{flag}/--{opposite}" if annotation is bool and opposite else f"--{flag}"
    help = f"{help} (Default: {default}.)" if default not in (None, "None", "()", "False") else help
    option = typer.Option(flags, help=help, show_default=False, **extra)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[annotation | None, option], default=None
    )


def field_parameter(field: Field, hint: Any) -> inspect.Parameter:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(h for h in typing.get_args(hint) if h is not type(None))
    if typing.get_origin(hint) is tuple:
        hint = list[str]
    extra: dict[str, Any] = {"envvar": "WHISPERQ_RUN"} if field.name == "run" else {}
    default = None if field.default is MISSING else str(field.default)
    return parameter(field.name, hint, default, field.metadata["help"], field.metadata["off"], **extra)


def input_parameter(flag: InputFlag) -> inspect.Parameter:
    if flag.positional:
        argument = Annotated[list[str], typer.Argument(help=flag.help, metavar="FILE", show_default=False)]
        return inspect.Parameter(flag.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=argument)
    return parameter(flag.name, list[str] if flag.many else str, None, flag.help)


def signature(command: Command) -> inspect.Signature:
    """Inputs first, then settings, then the flags that every command has."""
    parameters = [input_parameter(flag) for flag in command.inputs]
    for kind in (command.settings, Common):
        hints = typing.get_type_hints(kind)
        parameters += [field_parameter(f, hints[f.name]) for f in fields(kind)]
    return inspect.Signature(parameters)


def function(command: Command) -> Callable[..., None]:
    def run(**flags: Any) -> None:
        given = {k: v for k, v in flags.items() if v is not None and k in {f.name for f in fields(Common)}}
        execute(command, Common(**given), flags)

    run.__signature__ = signature(command)  # type: ignore[attr-defined]
    run.__doc__ = f"{command.help}\n\nExample: {command.example}"
    return run


def execute(command: Command, common: Common, flags: dict[str, Any]) -> None:
    """One call, one print."""
    with reported():
        session = Session.open(command.name, common, {k: _tuple(v) for k, v in flags.items()})
        try:
            result = command.call(session, session.settings(command.settings))
        except Finished as finished:
            result = finished.artifact
            say(f"{result.path} is finished already, by this very command; nothing was done")
        if isinstance(result, str):
            print(result, end="")
            return
        if not first_process():
            return
        session.keep_configuration()
        show_result(result, common.json)


@contextmanager
def reported() -> Iterator[None]:
    """Every error becomes one sentence and its exit code."""
    try:
        yield
    except WhisperqError as error:
        fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        fail("interrupted; no half-written artifact is left", 130)
    except OSError as error:
        traceback_if_asked()
        place = f": {error.filename}" if error.filename else ""
        fail(f"{error.strerror or error}{place}", 3 if isinstance(error, BAD_PATH) else 1)
    except typer.Exit:
        raise
    except Exception as error:
        traceback_if_asked()
        fail(f"unexpected {type(error).__name__}: {error} (WHISPERQ_DEBUG=1 shows where)", 1)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def fail(message: str, code: int) -> None:
    """One sentence on standard error, whichever process it befell."""
    who = "whisperq" if first_process() else f"whisperq, process {os.environ['RANK']}"
    print(f"{who}: {' '.join(message.split())}", file=sys.stderr)
    raise typer.Exit(code)


def traceback_if_asked() -> None:
    if os.environ.get("WHISPERQ_DEBUG"):
        traceback.print_exc(file=sys.stderr)


def show_result(result: Artifact, as_json: bool) -> None:
    """The summary on stdout: tables, or the manifest with the artifact's path as one JSON object."""
    if as_json:
        print(json.dumps({"path": str(result.path), **result.manifest}))
        return
    out = Console(width=None if sys.stdout.isatty() else 140)
    for each in tables(result):
        out.print(each)
    for figure in result.results.get("figures", ()):
        out.print(f"figure: {result.path / figure}", highlight=False, soft_wrap=True)
    out.print(f"{result.kind}: {result.path}", highlight=False, soft_wrap=True)


for entry in COMMANDS:
    app.command(entry.name)(function(entry))


@app.command()
def show(path: Annotated[str, typer.Argument(help="An artifact's folder.")], json: bool = False) -> None:
    """Check an artifact's files against its manifest and print what it says.

    Example: whisperq show run/calibration
    """
    with reported():
        show_result(load(Path(path)), json)


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit()


if __name__ == "__main__":
    app()
