"""Rates and paired differences against scipy and a published example; symptoms; the command on a tiny model."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from scipy import stats

from whisperq import artifact
from whisperq.data.sounds import MAKERS, make_sounds
from whisperq.options import RobustnessConfig
from whisperq.scoring.normalizers import get_normalizer
from whisperq.scoring.proportions import Pairs, wilson
from whisperq.scoring.robustness import SPEECH, WORDLESS, goes_backwards, judge, symptoms
from whisperq.steps.robustness import gathered

RATE = 16_000
VOICE = np.random.default_rng(1).normal(size=RATE).astype(np.float32)
BASIC = get_normalizer("basic")


@pytest.mark.parametrize("count, total", [(0, 20), (3, 20), (20, 20), (17, 93)])
def test_wilsons_interval_is_scipys(count, total):
    theirs = stats.binomtest(count, total).proportion_ci(method="wilson")
    assert wilson(count, total) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


@pytest.mark.parametrize("first, second", [(0, 0), (1, 0), (2, 9), (5, 5), (12, 3)])
def test_mcnemars_p_is_the_binomial_tests(first, second):
    expected = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert Pairs(7, first, second, 11).p == pytest.approx(expected)


def test_the_difference_is_that_of_newcombes_paper():
    """Statistics in Medicine 17 (1998): 36, 12, 2 and 0 pairs; its method 10 gives 0.0569 to 0.3404."""
    low, high = Pairs(36, 2, 12, 0).interval
    assert (low, high) == pytest.approx((0.0569, 0.3404), abs=1e-4)
    assert Pairs(36, 12, 2, 0).interval == pytest.approx((-high, -low))


def test_the_differences_interval_holds_the_truth_nineteen_times_in_twenty():
    chances = (0.15, 0.05, 0.10, 0.70)
    drawn = np.random.default_rng(0).multinomial(60, chances, size=2000)
    ends = [Pairs(*map(int, row)).interval for row in drawn]
    assert 0.935 < np.mean([low <= 0.05 <= high for low, high in ends]) < 0.99


def test_pairs_are_counted():
    assert Pairs.of([True, True, False, False, False], [True, False, True, True, False]) == Pairs(1, 1, 2, 1)


def test_sounds_are_the_same_from_the_same_seed_and_as_loud_as_said():
    first, again, other = (make_sounds(5, RATE, [VOICE], seed) for seed in (0, 0, 1))
    assert [s.name for s in first] == [s.name for s in again] and len({s.name for s in first}) == 15
    assert all(np.array_equal(a.samples, b.samples) for a, b in zip(first, again, strict=True))
    assert any(not np.array_equal(a.samples, b.samples) for a, b in zip(first, other, strict=True))
    assert {s.kind for s in first} == set(MAKERS)
    loud = {s.name: 20 * math.log10(max(float(np.sqrt(np.mean(s.samples.astype(float) ** 2))), 1e-12)) for s in first}
    assert loud["silence-00-zeros"] == -240 and loud["silence-01-dither"] == pytest.approx(-90, abs=0.2)
    assert loud["silence-02-room"] == pytest.approx(-70, abs=0.2)
    assert loud["noise-04-white"] == pytest.approx(-32, abs=1)
    assert all(level < -38 for name, level in loud.items() if name.startswith("silence"))
    assert all(level > -25 for name, level in loud.items() if name.startswith("music"))


def test_pink_noise_loses_three_decibels_an_octave():
    sound = next(s for s in make_sounds(4, RATE, [VOICE]) if s.name == "noise-01-pink")
    hertz, power = (values[1:] for values in np.array(_spectrum(sound.samples)))
    slope = np.polyfit(np.log10(hertz), 10 * np.log10(power), 1)[0]
    assert slope == pytest.approx(-10, abs=0.5)  # decibels a decade


def _spectrum(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.fft.rfftfreq(len(samples), 1 / RATE), np.abs(np.fft.rfft(samples)) ** 2


def test_times_that_fall_are_found():
    assert not goes_backwards([]) and not goes_backwards([(0.0, 1.5), (1.5, 2.0), (2.5, 2.5)])
    assert goes_backwards([(0.0, 2.0), (1.5, 3.0)]) and goes_backwards([(2.0, 1.0)])


def test_symptoms_of_one_recording():
    found = symptoms("thank you " * 5, "", BASIC, [(0.0, 2.0), (1.0, 3.0)])
    assert (found.words, found.loop, found.backwards) == (10, True, True)
    assert symptoms("[Music]", "", BASIC, None).words == 0
    assert not symptoms("no no no no no no no no", "no no no no no no no no", BASIC, None).loop


def test_rates_are_those_of_the_recordings_in_which_they_are_asked():
    kinds = [SPEECH, SPEECH, "silence", "silence", "music"]
    texts_a = ["one", "", "", "you", ""]
    texts_b = ["", "two", "so", "you", "la " * 9]
    a, b = ([symptoms(text, "", BASIC, None) for text in texts] for texts in (texts_a, texts_b))
    found = {(r["symptom"], r["recordings"]): r for r in judge(kinds, a, b)}
    rows = [("words", "silence"), ("words", "music"), ("words", "no speech"), ("empty", SPEECH)]
    assert list(found) == [*rows, ("loops", SPEECH), ("loops", "no speech")], "without times nothing is said of them"
    words = found["words", "no speech"]
    assert (words["count_a"], words["count_b"], words["total"]) == (1, 3, 3)
    assert words["pairs"] == {"both": 1, "first": 0, "second": 2, "neither": 0} and words["p"] == 0.5
    assert (words["words_a"], words["words_b"]) == (1, 11) and words["words_change"] == pytest.approx(10 / 3)
    assert found["empty", SPEECH]["difference"] == 0 and found["empty", SPEECH]["pairs"]["first"] == 1
    assert found["loops", "no speech"]["count_b"] == 1 and found["loops", SPEECH]["count_b"] == 0


def test_a_listed_recording_without_words_is_no_speech():
    """That nothing is heard in it is right, and that something is is not; nobody's voice is taken from it."""
    texts = {"spoken": "one two", "silent": "", "laughter": "[laughs]"}
    sounds = {name: np.full(16_000, 0.1 * i, np.float32) for i, name in enumerate(texts)}
    extractor = SimpleNamespace(sampling_rate=16_000)
    opened = SimpleNamespace(loader=SimpleNamespace(audio=lambda u: sounds[u.id], extractor=extractor))
    listed = [SimpleNamespace(id=name, text=text) for name, text in texts.items()]
    found = list(gathered(opened, listed, BASIC, RobustnessConfig(sounds=4), 0))
    assert {r.name: r.kind for r in found[:3]} == {"spoken": SPEECH, "silent": WORDLESS, "laughter": WORDLESS}
    noise = make_sounds(4, 16_000, [sounds["spoken"]], 0)
    assert all(np.array_equal(r.samples, s.samples) for r, s in zip(found[3:], noise, strict=True))
    heard = [symptoms(text, "", BASIC, None) for text in ("one two", "", "thank you")]
    rows = {(r["symptom"], r["recordings"]): r["count_a"] for r in judge([r.kind for r in found[:3]], heard, heard)}
    assert rows["words", WORDLESS] == rows["words", "no speech"] == 1 and rows["empty", SPEECH] == 0


@pytest.fixture
def looked(copied_run, invoke) -> Path:
    done = invoke("robustness", "--model", "gemm-w8a8", "--sounds", 4, "--limit", 3)
    assert done.exit_code == 0, done.output
    assert "Beside word errors, A float, B int8" in done.stdout
    return copied_run / "robustness" / "gemm-w8a8-int8"


def test_the_command_leaves_the_hypotheses_and_the_recordings(looked, invoke):
    made = artifact.load(looked, "robustness")
    assert (made.results["a"]["runtime"], made.results["b"]["runtime"]) == ("float", "int8")
    lines = [json.loads(line) for line in (looked / "heard.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == [SPEECH] * 3 + ["silence"] * 4 + ["noise"] * 4 + ["music"] * 4
    listed = [json.loads(line) for line in (looked / "sounds.jsonl").read_text().splitlines()]
    samples, rate = soundfile.read(looked / listed[-1]["audio_filepath"])
    assert len(listed) == 12 and len(samples) / rate == pytest.approx(listed[-1]["duration"])
    assert all(entry["text"] == "" for entry in listed)
    words = next(r for r in made.results["symptoms"] if (r["symptom"], r["recordings"]) == ("words", "no speech"))
    for system, key in (("float", "count_a"), ("quantized", "count_b")):
        assert words[key] == sum(BASIC(x[system]["pred_text"]) != "" for x in lines if x["kind"] != SPEECH)
    again = invoke("robustness", "--model", "gemm-w8a8", "--sounds", 4, "--limit", 3)
    assert again.exit_code == 0 and artifact.load(looked).manifest == made.manifest
    said = invoke("robustness", "--model", "gemm-w8a8", "--sounds", 4, "--limit", 3, "--dry-run")
    assert "by this very command; nothing would be done" in " ".join(said.stdout.split())


@pytest.mark.slow
def test_the_report_has_a_table_of_it(looked, invoke):
    assert invoke("report", "run", "--out", "page").exit_code == 0
    page, text = (Path("page", name).read_text() for name in ("report.html", "robustness.csv"))
    assert "<h3>Beside word errors</h3>" in page
    rows = len(artifact.load(looked).results["symptoms"])
    assert len(text.splitlines()) == 1 + rows >= 7
    line = "whisperq robustness --model gemm-w8a8"
    assert line in page and "--sounds 4 --limit 3" in page


def test_a_float_model_is_refused(copied_run, invoke):
    refused = invoke("robustness", "--model", "distilled")
    assert refused.exit_code == 3 and "a quantized model is needed" in " ".join(refused.stderr.split())
