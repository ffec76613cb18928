"""Word errors against jiwer and hand-worked alignments, their interval against scipy."""

import hashlib
import json
import math
import subprocess
import sys
from importlib.resources import files
from types import SimpleNamespace

import jiwer
import numpy as np
import pytest
from scipy.stats import bootstrap

from whisperq.errors import UsageError
from whisperq.scoring.intervals import bootstrap_interval
from whisperq.scoring.normalizers import get_normalizer, normalizer_of, published_spelling
from whisperq.scoring.words import count_errors


def _random_sentences(count: int, seed: int) -> list[str]:
    generator = np.random.default_rng(seed)
    words = np.array("zero one two three four five".split())
    return [" ".join(generator.choice(words, generator.integers(1, 9))) for _ in range(count)]


def test_hand_worked_alignments() -> None:
    references = ["the cat sat", "a b c d", "one", "x y"]
    hypotheses = ["the hat sat", "a c d e e", "", "x y"]
    result = count_errors(references, hypotheses, get_normalizer("none"))
    assert (result.substitutions, result.deletions, result.insertions, result.hits) == (1, 2, 2, 7)
    assert result.per_utterance == ((1, 3), (3, 4), (1, 1), (0, 2))
    assert (result.reference_words, result.utterances, result.empty_references) == (10, 4, 0)
    assert result.wer == pytest.approx(0.5)


def test_random_sentences_agree_with_jiwer() -> None:
    references, hypotheses = _random_sentences(200, seed=0), _random_sentences(200, seed=1)
    result = count_errors(references, hypotheses, get_normalizer("none"))
    assert result.wer == pytest.approx(jiwer.wer(references, hypotheses))
    rates = [errors / words for errors, words in result.per_utterance]
    assert rates == pytest.approx(list(map(jiwer.wer, references, hypotheses)))
    assert sum(errors for errors, _ in result.per_utterance) == round(result.wer * result.reference_words)


def test_both_sides_are_normalised() -> None:
    result = count_errors(["Hello,  World!"], ["hello world"], get_normalizer("basic"))
    assert (result.hits, result.wer) == (2, 0.0)
    assert count_errors(["Hello, World!"], ["hello world"], get_normalizer("none")).wer == 1.0


def test_english_normaliser_makes_one_word_of_digits() -> None:
    references, hypotheses = ["one two three"], ["one two four"]
    english = count_errors(references, hypotheses, get_normalizer("english"))
    assert (english.reference_words, english.raw_reference_words, english.wer) == (1, 3, 1.0)
    assert english.normalizer_changed_words
    basic = count_errors(references, hypotheses, get_normalizer("basic"))
    assert (basic.reference_words, basic.wer) == (3, pytest.approx(1 / 3))
    assert not basic.normalizer_changed_words


def test_more_than_five_percent_of_words_is_a_change() -> None:
    reference = " ".join(["word"] * 19)
    assert not count_errors([reference + " [noise]"], [""], get_normalizer("basic")).normalizer_changed_words
    assert count_errors([reference[5:] + " [noise]"], [""], get_normalizer("basic")).normalizer_changed_words


def test_empty_references_are_counted_and_left_out() -> None:
    references, hypotheses = ["[laughter]", "a b", "  "], ["one two three", "a c", "x"]
    result = count_errors(references, hypotheses, get_normalizer("basic"))
    assert (result.utterances, result.empty_references) == (1, 2)
    assert (result.reference_words, result.raw_reference_words, result.insertions) == (2, 2, 0)
    assert result.empty_reference_insertions == 4
    assert result.per_utterance == ((1, 2),)


@pytest.mark.parametrize("references", [[], ["[noise]", ""]])
def test_nothing_to_score_has_no_rate(references: list[str]) -> None:
    result = count_errors(references, ["a"] * len(references), get_normalizer("basic"))
    assert math.isnan(result.wer)
    assert (result.utterances, result.empty_references, result.per_utterance) == (0, len(references), ())


def test_dictionary_has_counts_and_rate_without_utterances() -> None:
    assert count_errors(["a b"], ["a"], get_normalizer("none")).as_dict() == {
        "wer": 0.5,
        "hits": 1,
        "substitutions": 0,
        "deletions": 1,
        "insertions": 0,
        "reference_words": 2,
        "raw_reference_words": 2,
        "utterances": 1,
        "empty_references": 0,
        "empty_reference_insertions": 0,
    }


def test_as_many_hypotheses_as_references() -> None:
    with pytest.raises(ValueError):
        count_errors(["a", "b"], ["a"], get_normalizer("none"))


def test_normalizers_and_their_ids() -> None:
    text = "  The COLOUR,\tof\n it's "
    assert get_normalizer("none")(text) == "The COLOUR, of it's"
    assert get_normalizer("basic")(text) == "the colour of it s"
    published, own = get_normalizer("english"), get_normalizer("english", {"colour": "hue"})
    assert (published.id, own.id) == ("english", "english")
    assert published(text) == "the color of it is"
    assert own(text) == "the hue of it is"
    assert (get_normalizer("basic").id, get_normalizer("none").id) == ("basic", "none")


def test_a_tokenizers_own_map_comes_first() -> None:
    text = "the colour grey"
    assert normalizer_of("english", SimpleNamespace(english_spelling_normalizer={"grey": "gray"}))(text) == (
        "the colour gray"
    )
    for without in (SimpleNamespace(english_spelling_normalizer=None), SimpleNamespace()):
        assert normalizer_of("english", without)(text) == "the color gray"


def test_the_published_map_is_openais() -> None:
    """The hash is that of whisper/normalizers/english.json in the package openai-whisper 20250625."""
    file = files("whisper_normalizer") / "normalizers" / "english.json"
    of_openai = "6607f948be9824d2e1b2fa2223cd94c06c45afa4e05ea0e3d5e1f2bdffde2465"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == of_openai
    assert published_spelling() == json.loads(file.read_text(encoding="utf-8")) and len(published_spelling()) == 1739


def test_reading_the_map_imports_nothing_else_of_its_package() -> None:
    """Its code needs four more packages, and turns "cause" into "because"."""
    code = "import sys; from whisperq.scoring.normalizers import get_normalizer as g; print(g('english')('the cause'))"
    code += "; print([n for n in sys.modules if n.startswith('whisper_normalizer.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["the cause", "[]"], done.stderr


def test_the_id_of_earlier_evaluations_keeps_its_meaning() -> None:
    earlier = get_normalizer("english-without-spelling-map", {"colour": "color"})
    assert earlier.id == "english-without-spelling-map" and earlier("The COLOUR") == "the colour"


def test_unknown_normalizer_lists_the_known() -> None:
    with pytest.raises(UsageError, match="german.*english, basic, none"):
        get_normalizer("german")


def test_interval_agrees_with_scipy() -> None:
    generator = np.random.default_rng(0)
    words = generator.integers(1, 12, 60)
    errors = generator.binomial(words, 0.2)
    expected = bootstrap(
        (errors, words),
        lambda e, w, axis: e.sum(axis) / w.sum(axis),
        paired=True,
        method="percentile",
        n_resamples=20_000,
        rng=generator,
    ).confidence_interval
    pairs = list(zip(errors.tolist(), words.tolist(), strict=True))
    interval = bootstrap_interval(pairs, resamples=20_000)
    assert interval == pytest.approx((expected.low, expected.high), abs=0.004)
    narrow = bootstrap_interval(pairs, resamples=5000, level=0.5)
    assert interval[0] < narrow[0] < errors.sum() / words.sum() < narrow[1] < interval[1]


def test_interval_weighs_utterances_by_their_words() -> None:
    # two utterances: a resample holds either one twice or both, in the proportions 1 : 2 : 1
    low, high = bootstrap_interval([(0, 30), (10, 10)], resamples=4000, level=0.4)
    assert (low, high) == (0.25, 0.25)
    assert bootstrap_interval([(0, 30), (10, 10)], level=0.95) == (0.0, 1.0)


def test_equal_utterances_leave_no_doubt() -> None:
    assert bootstrap_interval([(1, 4)] * 50) == (0.25, 0.25)
    assert all(math.isnan(end) for end in bootstrap_interval([]))


def test_interval_is_repeatable_and_bounded_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [(i % 3, 5) for i in range(37)]
    whole = bootstrap_interval(pairs, resamples=500, seed=3)
    assert whole == bootstrap_interval(pairs, resamples=500, seed=3)
    assert whole != bootstrap_interval(pairs, resamples=500, seed=4)
    monkeypatch.setattr("whisperq.scoring.intervals._DRAWN_AT_ONCE", 100)
    assert whole == bootstrap_interval(pairs, resamples=500, seed=3)


def test_impossible_intervals_are_refused() -> None:
    with pytest.raises(ValueError):
        bootstrap_interval([(0, 0)])
    with pytest.raises(ValueError):
        bootstrap_interval([(0, 1)], level=1.0)
