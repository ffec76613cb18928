"""--train LIST:WEIGHT."""

from types import SimpleNamespace

import pytest

from whisperq.cli.session import Session
from whisperq.config import Experiment
from whisperq.errors import UsageError
from whisperq.settings import Common


def sources(*flags: str, flag: str = "train") -> list[tuple[str, float]]:
    session = Session("distill", Common(), {flag: list(flags)}, Experiment(), SimpleNamespace())
    return [(s.path, s.weight) for s in session.sources(flag, flag)]


@pytest.fixture(autouse=True)
def lists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.jsonl", "b:2", "c:d.jsonl"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    "text, name, weight",
    [
        ("a.jsonl", "a.jsonl", 1.0),
        ("a.jsonl:2", "a.jsonl", 2.0),
        ("a.jsonl:0.5", "a.jsonl", 0.5),
        ("a.jsonl:0", "a.jsonl", 0.0),
        ("b:2", "b:2", 1.0),
        ("b:2:3", "b:2", 3.0),
        ("c:d.jsonl", "c:d.jsonl", 1.0),
        ("c:d.jsonl:1e1", "c:d.jsonl", 10.0),
        ("gone:away.jsonl", "gone:away.jsonl", 1.0),
        ("gone.jsonl:2", "gone.jsonl", 2.0),
    ],
)
def test_what_is_behind_the_last_colon_is_the_weight_unless_a_file_is_so_named(lists, text, name, weight):
    assert sources(text) == [(str(lists / name), weight)]


@pytest.mark.parametrize(
    "text", ["a.jsonl:two", "a.jsonl:-1", "a.jsonl:nan", "a.jsonl:inf", "a.jsonl:1e999", "a.jsonl:"]
)
def test_a_bad_weight_is_a_usage_error(text):
    with pytest.raises(UsageError, match="the weight behind the colon must be a number of at least 0"):
        sources(text)


def test_other_flags_have_no_weights(lists):
    assert sources("b:2", flag="validation") == [(str(lists / "b:2"), 1.0)]
    assert sources("a.jsonl:2", flag="validation") == [(str(lists / "a.jsonl:2"), 1.0)]


def test_several_lists_each_have_their_own(lists):
    assert sources("a.jsonl:2", "b:2") == [(str(lists / "a.jsonl"), 2.0), (str(lists / "b:2"), 1.0)]
