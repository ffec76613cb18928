"""The command line: one Typer command for each entry of COMMANDS, made from its dataclass of settings.

Exit codes: 0 done, 1 unexpected, 2 usage, 3 bad input, 75 checkpointed. Results go to stdout, all else to stderr.
"""

import inspect
import os
import sys
import types
import typing
import warnings
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.rich_utils
from typer.core import TyperCommand

from whisperq import __version__
from whisperq.artifact import load
from whisperq.checks import of_union
from whisperq.cli.commands import COMMANDS, Command, InputFlag, perform
from whisperq.cli.config_template import write_template
from whisperq.cli.doctor import examine, findings_json, findings_table, refuse_broken
from whisperq.cli.dry_run import plan
from whisperq.cli.failing import reported, sentence
from whisperq.cli.plan_tables import plan_tables
from whisperq.cli.planning import Plan
from whisperq.cli.printing import print_lineage, print_out, print_result
from whisperq.cli.resolve import call_of
from whisperq.cli.session import Session
from whisperq.config import FILE
from whisperq.disk import first_process
from whisperq.former import FORMER, Former, todays_settings
from whisperq.run_folder import artifact_at
from whisperq.settings import Common

if not (sys.stdout.isatty() or os.environ.get("COLUMNS")):
    typer.rich_utils.MAX_WIDTH = 100  # a pipe has no width; at 80 columns the longest options' names are cut short

app = typer.Typer(
    help="Make Whisper small and fully INT8, honestly measured.",
    no_args_is_help=True,
    add_completion=True,
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
    help = f"{help} (Default: {default}.)" if default not in (None, "None", "", "False") else help
    option = typer.Option(flags, help=help, show_default=False, **extra)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[annotation | None, option], default=None
    )


def field_parameter(field: Field, hint: Any, help: str) -> inspect.Parameter:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        words, hint = of_union(hint)
        hint = str if words else hint
    if typing.get_origin(hint) is tuple:
        hint = list[str]
    extra: dict[str, Any] = {"envvar": "WHISPERQ_RUN"} if field.name == "run" else {}
    values = field.default if isinstance(field.default, tuple) else (field.default,)
    default = None if field.default is MISSING else ", ".join(map(str, values))
    return parameter(field.name, hint, default, help, field.metadata["off"], **extra)


def former_parameter(name: str, today: Former) -> inspect.Parameter:
    """A setting by its earlier name: taken, and not in the help."""
    return parameter(name, str, None, f"Earlier name of --{today.name.replace('_', '-')}.", hidden=True)


def input_parameter(flag: InputFlag) -> inspect.Parameter:
    if flag.positional:
        kind: Any = list[str] if flag.many else str
        argument = Annotated[kind, typer.Argument(help=flag.help, metavar=flag.metavar, show_default=False)]
        return inspect.Parameter(flag.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=argument)
    return parameter(flag.name, list[str] if flag.many else str, None, flag.help)


def signature(command: Command) -> inspect.Signature:
    """Inputs first, then settings, then the flags that every command has."""
    parameters = [input_parameter(flag) for flag in command.inputs]
    for kind in (command.settings, Common):
        hints = typing.get_type_hints(kind)
        own = command.shared if kind is Common else {}
        parameters += [field_parameter(f, hints[f.name], own.get(f.name, f.metadata["help"])) for f in fields(kind)]
    parameters += [former_parameter(name, one) for name, one in FORMER.get(command.name, {}).items()]
    return inspect.Signature(parameters)


def function(command: Command) -> Callable[..., None]:
    def run(**flags: Any) -> None:
        execute(command, flags)

    run.__signature__ = signature(command)  # type: ignore[attr-defined]  # `inspect` looks for it, on any function
    run.__doc__ = f"{command.help}\n\nExample: {command.example}"
    return run


def execute(command: Command, flags: dict[str, Any]) -> None:
    """Run a command with its flags, and print its result, or its plan under --dry-run."""
    with reported(flags):
        flags = todays_settings(command.name, flags)
        common = Common(**{f.name: flags[f.name] for f in fields(Common) if flags[f.name] is not None})
        session = Session.open(command.name, common, {k: _tuple(v) for k, v in flags.items()})
        settings = session.settings(command.settings)
        if common.dry_run:
            print_plan(plan(session, settings, call_of(command)), common.json)
            return
        result = perform(call_of(command), session, settings)
        if isinstance(result, str):
            print(result, end="")
            return
        if not first_process():
            return
        if command.one_run:
            session.keep_configuration()
        print_result(result, common.json)


def print_plan(planned: Plan, as_json: bool) -> None:
    """Print the plan of --dry-run; then raise the error that would stop the real run, if there is one."""
    if first_process():
        print_out(planned.as_json() if as_json else plan_tables(planned))
    planned.check()


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class FilesCommand(TyperCommand):
    """A command that takes files, whose names may begin with a dash, as the shell's * gives them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = {option for p in self.params for option in (*p.opts, *p.secondary_opts)}
        named = [f"./{a}" if a[:1] == "-" and a.split("=")[0] not in known and os.path.isfile(a) else a for a in args]
        return super().parse_args(ctx, named)


for entry in COMMANDS:
    takes_files = any(flag.positional and flag.many for flag in entry.inputs)
    app.command(entry.name, cls=FilesCommand if takes_files else None)(function(entry))


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


@app.command()
def show(path: Annotated[str, typer.Argument(help="An artifact's folder.")], json: AsJson = False) -> None:
    """Check an artifact's files against its manifest; print what it says and what it was made from.

    Example: whisperq show run/calibration
    """
    with reported():
        sealed = load(artifact_at(Path(path)))
        if not json:
            print_lineage(sealed)
        print_result(sealed, json)


@app.command()
def doctor(
    run: Annotated[str, typer.Option("--run", envvar="WHISPERQ_RUN", help="Run folder to look at.")] = "run",
    json: AsJson = False,
) -> None:
    """Say what this machine offers whisperq, and what is missing with the line that brings it.

    Example: whisperq doctor
    """
    with reported():
        findings = examine(Path(run))
        print_out(findings_json(findings) if json else [findings_table(findings)])
        refuse_broken(findings)


@app.command("init-config")
def init_config(
    out: Annotated[str, typer.Option("--out", help="The file to write.")] = FILE,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a configuration to begin with: every key, its meaning and its default.

    Example: whisperq init-config
    """
    with reported():
        print(write_template(Path(out), force))


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit()
    warnings.formatwarning = sentence


if __name__ == "__main__":
    app()
