"""--loop-limit: an utterance that repeats itself is at its end; all others are decoded as without."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import run_command
from support.scripted_runtime import Scripted

from whisperq import artifact
from whisperq.errors import UsageError
from whisperq.runtime.beams import with_beams, with_loop_limit
from whisperq.runtime.ctc import CtcRules
from whisperq.runtime.decoding import Rules, greedy
from whisperq.runtime.loops import LONGEST, in_loop
from whisperq.runtime.transcription import transcribe
from whisperq.training import validation

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
RULES = Rules(prompt=(1,), end=9, max_tokens=200)
FEATURES = torch.zeros(1)


@pytest.mark.parametrize(
    "tokens, times, expected",
    [
        ([3] * 8, 8, True),
        ([3] * 7, 7, False),  # too few in all
        ([5, *[3] * 8], 8, True),
        ([3] * 8 + [5], 8, False),  # over by now
        ([1, 2, 3] * 4, 4, True),
        ([1, 2, 3] * 3 + [1, 2, 4], 4, False),
        ([*range(LONGEST)] * 4, 4, True),
        ([*range(LONGEST + 1)] * 4, 4, False),
        ([], 2, False),
    ],
)
def test_a_loop_is_an_n_gram_several_times_at_the_end(tokens, times, expected):
    assert in_loop(tokens, times) is expected


def decoded(scripts: list[list[int]], rules: Rules) -> tuple[list[list[int]], int]:
    """What is written, and in how many steps; each script goes on with its last n-gram without end."""
    runtime = Scripted([(script + script[-3:] * 100)[:250] for script in scripts])
    return greedy(runtime, FEATURES.expand(len(scripts)), rules), len(runtime.given)


def test_an_utterance_in_a_loop_ends_and_the_others_are_as_without():
    sentence = [1, 2, 3, 4, 5, 6, 8, 1, 3, 5, 2, 4, 6, 8, 2, 1, 1, 1, 3, 2, 9]
    circle = [4, 2, 6, 5, 3]
    plain, steps = decoded([sentence, circle], RULES)
    limited, fewer = decoded([sentence, circle], replace(RULES, loop_limit=4))
    assert steps == 199 and fewer <= 24
    assert limited[0] == plain[0] == sentence[:-1]
    assert limited[1] == plain[1][: len(limited[1])] and 5 + 9 <= len(limited[1]) <= 24
    assert in_loop(limited[1], 4)


def test_repeats_that_people_say_are_kept():
    """Seven times in a row, and then something else: below the limit of eight."""
    row = [5, *[3] * 7, 2, 4, 9]
    assert decoded([row], replace(RULES, loop_limit=8))[0] == [row[:-1]]


def test_it_is_for_greedy_whispers_alone():
    assert with_loop_limit(RULES, None) is RULES and with_loop_limit(RULES, 8).loop_limit == 8
    for rules in (with_beams(RULES, 3), CtcRules(0, ())):
        with pytest.raises(UsageError, match="--loop-limit is for a Whisper that decodes greedily"):
            with_loop_limit(rules, 8)
        assert with_loop_limit(rules, None) is rules


@pytest.fixture
def endless(workspace) -> Path:
    """The teacher of the digits, which may not write <|endoftext|>: it says each recording again and again."""
    folder = Path(shutil.copytree(DIGITS / "teacher", workspace / "endless"))
    config = json.loads((folder / "generation_config.json").read_text())
    end = json.loads((folder / "config.json").read_text())["eos_token_id"]
    (folder / "generation_config.json").write_text(json.dumps({**config, "suppress_tokens": [end]}))
    return folder


LIMITS = {"without": (), "with": ("--loop-limit", 4)}


def texts(file: Path) -> list[str]:
    return [json.loads(line)["pred_text"] for line in file.read_text().splitlines()]


def test_eval_and_pseudo_label_take_it(endless):
    written = {}
    for name, flags in LIMITS.items():
        done = run_command("eval", "--model", endless, "--out", f"eval {name}", "--limit", 4, *flags)
        assert done.exit_code == 0, done.output
        written[name] = texts(Path(f"eval {name}", "hypotheses", "digits.jsonl"))
    pairs = list(zip(written["without"], written["with"], strict=True))
    assert all(whole.startswith(cut) for whole, cut in pairs) and sum(whole != cut for whole, cut in pairs) >= 2
    assert artifact.load("eval with").config["loop_limit"] == 4
    done = run_command("pseudo-label", "--model", endless, "--out", "labels", "--loop-limit", 4)
    assert done.exit_code == 0, done.output
    labels = artifact.load("labels")
    assert labels.config["loop_limit"] == 4 and labels.kind == "pseudo-labels"


def test_eval_and_pseudo_label_count_what_is_cut_short(endless):
    """Bounds of the recordings' own lengths, of a teacher that spells digits in bytes; without the option no count."""
    written = {}
    for name, flags in {"without": (), "with": ("--tokens-per-second", 10)}.items():
        done = run_command("eval", "--model", endless, "--out", f"eval {name}", "--limit", 4, *flags)
        assert done.exit_code == 0, done.output
        written[name] = texts(Path(f"eval {name}", "hypotheses", "digits.jsonl"))
    assert all(whole.startswith(cut) for whole, cut in zip(written["without"], written["with"], strict=True))
    (found,) = artifact.load("eval with").results["sets"].values()
    lines = [json.loads(line) for line in Path("eval with", "hypotheses", "digits.jsonl").read_text().splitlines()]
    short = [line["id"] for line in lines if line.get("cut_short")]
    assert found["cut_short"] == len(short) > 0 and found["cut"] == short
    lengths = [len(line["pred_text"].encode()) for line in lines]  # one byte is one token there
    assert all(n <= 16 + 10 * (line["duration"] + 0.03) for n, line in zip(lengths, lines, strict=True))
    assert f"{len(short)} cut short" in Path("eval with", "errors", "digits.txt").read_text()
    shown = run_command("show", "eval with").output
    assert "Hypotheses cut short" in shown and short[0] in shown
    (plain,) = artifact.load("eval without").results["sets"].values()
    assert "cut_short" not in plain and "cut short" not in run_command("show", "eval without").output
    done = run_command("pseudo-label", "--model", endless, "--out", "labels", "--tokens-per-second", 10)
    assert done.exit_code == 3 and "no recording could be labelled" in done.output, done.output


def test_validation_says_how_many_were_cut_short(endless):
    assert run_command("init-student", "--teacher", endless).exit_code == 0
    done = run_command("distill", "--teacher", endless, "--max-steps", 1, "--tokens-per-second", 10)
    log = [json.loads(line) for line in Path("run/distilled/metrics.jsonl").read_text().splitlines()]
    (cut,) = [entry["cut_short"] for entry in log if "cut_short" in entry]
    assert done.exit_code == 0 and f", {cut} cut short at --tokens-per-second" in done.output, done.output
    assert cut > 0 and artifact.load("run/distilled").config["tokens_per_second"] == 10
    for command in ("eval", "distill", "pseudo-label"):
        refused = run_command(command, "--tokens-per-second", 3)
        assert refused.exit_code == 2 and "tokens-per-second" in refused.output


def test_validation_takes_it_and_says_how_many_were_in_loops(endless, monkeypatch):
    """What is said is replaced in one of two utterances: no small model repeats whole words."""
    limits = []

    def circling(runtime, loader, rules, batch, size):
        limits.append(rules.loop_limit)
        for number, found in enumerate(transcribe(runtime, loader, rules, batch, size)):
            yield replace(found, text="no " * 9) if number == 1 else found

    monkeypatch.setattr(validation, "transcribe", circling)
    assert run_command("init-student", "--teacher", endless).exit_code == 0
    done = run_command("distill", "--teacher", endless, "--max-steps", 1, "--loop-limit", 4)
    assert done.exit_code == 0 and " words, 1 utterances in loops" in done.output, done.output
    assert limits == [4] and artifact.load("run/distilled").config["loop_limit"] == 4
    log = [json.loads(line) for line in Path("run/distilled/metrics.jsonl").read_text().splitlines()]
    assert [entry["loops"] for entry in log if "loops" in entry] == [1]
