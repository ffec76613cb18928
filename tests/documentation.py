"""The guide's page of commands, made from what the commands say of themselves.

python tests/documentation.py    # writes it anew
"""

import inspect
import sys
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from typer.models import ArgumentInfo, OptionInfo

from whisperq.cli.app import app
from whisperq.cli.commands import COMMANDS
from whisperq.settings import Common

PAGE = Path(__file__).parents[1] / "examples" / "guide" / "commands.md"
INTRODUCTION = """\
# Commands

<!-- Made by tests/documentation.py from the commands' help; a test holds it true. -->

Every command with an example and all of its options. `whisperq COMMAND --help` says the same.
`whisperq --install-completion` teaches the shell to complete commands and options, `whisperq --version` prints the
version. Switches that have an opposite have it after a slash. What each command reads and writes where no option says
so is in the [README](../../README.md#the-run-folder).
"""
SHARED = """\
## Options of all steps

Every command but `show`, `doctor` and `init-config` takes these as well:
"""


@dataclass(frozen=True)
class Option:
    """One option or argument of a command."""

    name: str
    spelling: str  # as --help shows it: --pack/--no-pack, or FILE
    help: str
    choices: tuple[str, ...] = ()

    @property
    def row(self) -> str:
        values = f" {', '.join(f'`{c}`' for c in self.choices)}" if self.choices else ""
        help = self.help.replace("|", "\\|")
        return f"| `{self.spelling}`{values} | {help} |"


def commands() -> dict[str, tuple[str, list[Option]]]:
    """Name -> help and options, in the order of the help page."""
    named = {c.name or c.callback.__name__: c.callback for c in app.registered_commands}
    return {name: (inspect.getdoc(call) or "", list(options(call))) for name, call in named.items()}


def options(call: typing.Callable) -> Iterator[Option]:
    for name, parameter in inspect.signature(call).parameters.items():
        hint, info = typing.get_args(parameter.annotation)
        yield Option(name, _spelling(name, info), info.help or "", tuple(_choices(hint)))


def _spelling(name: str, info: OptionInfo | ArgumentInfo) -> str:
    if isinstance(info, ArgumentInfo):
        return info.metavar or name.upper()
    # Inside Annotated Typer takes the first spelling for a default until the command is built.
    return next(text for text in (info.default, *(info.param_decls or ())) if str(text).startswith("--"))


def _choices(hint: typing.Any) -> Iterator[str]:
    for one in typing.get_args(hint) if isinstance(hint, types.UnionType) or _is_union(hint) else (hint,):
        if typing.get_origin(one) is typing.Literal:
            yield from typing.get_args(one)


def _is_union(hint: typing.Any) -> bool:
    return typing.get_origin(hint) is typing.Union


def page() -> str:
    """The page as the commands' help makes it."""
    steps, shared = {c.name: c for c in COMMANDS}, {f.name for f in fields(Common)}
    blocks = [INTRODUCTION]
    for name, (help, found) in commands().items():
        about, example = help.split("Example: ")
        own = [o for o in found if name not in steps or o.name not in shared or o.name in steps[name].shared]
        blocks.append(f"## {name}\n\n{about.strip()}\n\n```\n{example.strip()}\n```\n\n{_table(own)}")
    first = commands()[COMMANDS[0].name][1]
    blocks.append(f"{SHARED}\n{_table([o for o in first if o.name in shared])}")
    return "\n".join(blocks)


def _table(found: Iterable[Option]) -> str:
    return "".join(f"{row}\n" for row in ("| option | meaning |", "|---|---|", *(o.row for o in found)))


def written() -> str:
    """The page as it stands on disk."""
    return PAGE.read_text(encoding="utf-8")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE}: {len(commands())} commands", file=sys.stderr)
