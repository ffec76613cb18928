"""The guide's page of commands is their help, and nothing in it is left out."""

import re
from dataclasses import replace

import documentation
import pytest
from typer.main import get_command

from whisperq.cli.app import app

COMMANDS = documentation.commands()


def part(name: str) -> str:
    """A command's part of the page, and what all steps share."""
    parts = re.split(r"^## ", documentation.written(), flags=re.MULTILINE)
    own = next(p for p in parts if p.startswith(f"{name}\n"))
    return own + next(p for p in parts if p.startswith("Options of all steps\n"))


def test_the_page_is_up_to_date():
    stale = "examples/guide/commands.md is stale; run python tests/documentation.py"
    assert documentation.written() == documentation.page(), stale


def test_every_command_has_its_part(invoke):
    listed = re.findall(r"^\W+([a-z][a-z-]+)  ", invoke("--help").stdout.split("Commands")[1], re.MULTILINE)
    assert re.findall(r"^## ([a-z-]+)$", documentation.written(), re.MULTILINE) == listed == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_that_the_command_line_takes_is_explained(name):
    """The options as the parser has them, not as the generator found them."""
    text = part(name)
    for parameter in get_command(app).commands[name].params:
        assert (parameter.help or "").strip(), f"{name}: {parameter.name} has no help"
        for spelling in (*parameter.opts, *parameter.secondary_opts):
            if spelling.startswith("-"):
                row = next((r for r in text.splitlines() if re.search(rf"`(\S+/)?{spelling}[`/]", r)), None)
                assert row, f"{spelling} of {name} is not on the page of commands"
                assert parameter.help.split(" (Default")[0] in row.replace("\\|", "|")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_an_example_of_its_own(name):
    assert re.search(rf"```\nwhisperq {name}\b.*\n```", part(name))


def test_an_option_whose_help_changes_makes_the_page_stale(monkeypatch):
    """And the page made anew has the changed row in the place of the old one."""
    found = documentation.commands()
    options = found["calibrate"][1]
    index = next(i for i, option in enumerate(options) if option.name == "batches")
    old, options[index] = options[index].row, replace(options[index], help="Something else.")
    monkeypatch.setattr(documentation, "commands", lambda: found)
    assert documentation.written().count(old) == 1
    assert documentation.page() == documentation.written().replace(old, options[index].row)
