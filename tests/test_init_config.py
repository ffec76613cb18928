"""whisperq init-config: the file changes nothing as it stands, and every line of it can be used."""

import re
from dataclasses import asdict, fields
from pathlib import Path

import pytest
import yaml

from whisperq.cli.config_template import template
from whisperq.config import Experiment, Source, read_config
from whisperq.declared import SETTINGS


@pytest.fixture
def written(tmp_path, monkeypatch, invoke) -> Path:
    monkeypatch.chdir(tmp_path)
    result = invoke("init-config")
    assert (result.exit_code, result.stdout) == (0, "whisperq.yaml\n")
    return tmp_path / "whisperq.yaml"


def test_as_it_stands_it_says_the_defaults(written):
    assert asdict(read_config(written)) == {**asdict(Experiment()), "path": written, "says_language": True}


def test_every_key_is_there():
    content = yaml.safe_load(template())
    assert set(content) == {f.name for f in fields(Experiment)} - {"path", "says_language"}
    explained = set(re.findall(r"^#   (\w+): ", template(), re.MULTILINE))
    assert explained == {f.name for f in fields(Source)}


def test_every_setting_can_be_taken_up_and_is_the_default(tmp_path):
    head, settings = template().split("\ndefaults:\n")
    file = tmp_path / "whisperq.yaml"
    file.write_text(f"{head}\ndefaults:\n{re.sub('^  # ', '  ', settings, flags=re.MULTILINE)}")
    defaults = read_config(file).defaults
    assert set(defaults) == set(SETTINGS)
    for command, kind in SETTINGS.items():
        assert defaults[command] == {f.name: f.default for f in fields(kind)}


def test_every_setting_is_explained():
    for kind in SETTINGS.values():
        for f in fields(kind):
            assert f"# {f.metadata['help']}\n" in template()


def test_a_file_that_is_there_is_kept_unless_forced(written, invoke):
    written.write_text("teacher: mine\n")
    result = invoke("init-config")
    assert result.exit_code == 2 and "--force" in result.stderr and written.read_text() == "teacher: mine\n"
    assert invoke("init-config", "--force").exit_code == 0 and written.read_text() == template()
    assert invoke("init-config", "--out", "other.yaml").exit_code == 0 and Path("other.yaml").read_text() == template()


def test_a_folder_that_is_not_there_is_named(tmp_path, monkeypatch, invoke):
    monkeypatch.chdir(tmp_path)
    result = invoke("init-config", "--out", "nowhere/other.yaml")
    assert result.exit_code == 3 and "there is no folder nowhere to write other.yaml into" in result.stderr
    assert "partial" not in result.stderr


WRONG = {
    "a key": ("teachr: x", "did you mean teacher?"),
    "a command": ("defaults: {distil: {max_steps: 3}}", "did you mean distill?"),
    "a setting": ("defaults: {distill: {max_step: 3}}", "did you mean max_steps?"),
    "a source's key": ("train: {path: a, wieght: 2}", "did you mean weight?"),
}


@pytest.mark.parametrize("content, reason", WRONG.values(), ids=WRONG)
def test_what_is_nearly_right_is_suggested(content, reason, written, invoke):
    written.write_text(content)
    result = invoke("distill")
    assert result.exit_code == 3 and reason in result.stderr
