"""The README's section on the commands is their help, and nothing in it is left out."""

import re

import documentation
import pytest
from typer.main import get_command

from whisperq.cli import app

COMMANDS = documentation.commands()


def part(name: str) -> str:
    """A command's part of the README, and what all steps share."""
    parts = re.split(r"^### ", documentation.written(), flags=re.MULTILINE)
    own = next(p for p in parts if p.startswith(f"{name}\n"))
    return own + next(p for p in parts if p.startswith("All steps\n"))


def test_the_section_is_up_to_date():
    stale = "the section Commands of README.md is stale; run python tests/documentation.py"
    assert documentation.written() == documentation.section(), stale


def test_every_command_has_its_part(invoke):
    listed = re.findall(r"^\W+([a-z][a-z-]+)  ", invoke("--help").stdout.split("Commands")[1], re.MULTILINE)
    assert re.findall(r"^### ([a-z-]+)$", documentation.written(), re.MULTILINE) == listed == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_that_the_command_line_takes_is_explained(name):
    """The options as the parser has them, not as the generator found them."""
    text = part(name)
    for parameter in get_command(app).commands[name].params:
        assert (parameter.help or "").strip(), f"{name}: {parameter.name} has no help"
        for spelling in (*parameter.opts, *parameter.secondary_opts):
            if spelling.startswith("-"):
                row = next((r for r in text.splitlines() if re.search(rf"`(\S+/)?{spelling}[`/]", r)), None)
                assert row, f"{spelling} of {name} is not in the README"
                assert parameter.help.split(" (Default")[0] in row.replace("\\|", "|")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_an_example_of_its_own(name):
    assert re.search(rf"```\nwhisperq {name}\b.*\n```", part(name))


def test_an_option_without_a_help_line_would_fail(monkeypatch):
    """The test of the test: the generator sees what is added to a command."""
    before = documentation.section()
    found = documentation.commands()
    found["calibrate"][1].append(documentation.Option("new", "--new", ""))
    monkeypatch.setattr(documentation, "commands", lambda: found)
    assert documentation.section() != before
