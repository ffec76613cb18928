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
from transformers.models.whisper.english_normalizer import BasicTextNormalizer as Transformers
from whisper_normalizer.basic import BasicTextNormalizer

from whisperq.errors import UsageError
from whisperq.scoring.alignment import align
from whisperq.scoring.intervals import bootstrap_interval
from whisperq.scoring.measures import writes_no_spaces
from whisperq.scoring.normalizers import get_normalizer, normalizer_of, published_spelling
from whisperq.scoring.words import count_errors, tally


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


def test_without_spaces_each_character_is_a_word_beside_words_of_other_utterances() -> None:
    chinese, heard = "\u4eca\u5929\u5929\u6c14\u5f88\u597d\u3002", "\u4eca\u5929 \u5929\u6c14\u5f88\u574f"
    result = count_errors([chinese, "one two", "\u6211 OK"], [heard, "one too", ""], get_normalizer("basic"))
    assert result.per_utterance == ((1, 6), (1, 2), (2, 2))  # the last has more words of others than such characters
    assert (result.reference_words, result.normalizer_changed_words) == (10, False)
    assert result.per_utterance[0][0] / 6 == pytest.approx(jiwer.cer(chinese[:-1], heard.replace(" ", "")))


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


# Word by word: what differs in a vowel sign, a tone, a virama or a nukta alone is another word.
OTHER_WORDS = {
    "Hindi": ("\u0915\u0940", "\u0915\u093e"),
    "Hindi, nukta": ("\u091c\u093c\u0930\u093e", "\u091c\u0930\u093e"),
    "Thai": ("\u0e1b\u0e39", "\u0e1b\u0e35"),
    "Thai, tone": ("\u0e02\u0e49\u0e32\u0e27", "\u0e02\u0e48\u0e32\u0e27"),
    "Tamil": ("\u0b95\u0bbf", "\u0b95\u0bc1"),
    "Bengali": ("\u0995\u09b2", "\u0995\u09c7\u09b2"),
    "Burmese": ("\u1000\u102d", "\u1000\u102f"),
    "Khmer": ("\u1780\u17b6", "\u1780\u17b7"),
    "Japanese": ("\u304b\u304e", "\u304c\u304e"),
    "Japanese, half width": ("\uff76\uff9e", "\uff76"),
    "Russian": ("\u0439", "\u0438"),
}


@pytest.mark.parametrize("name", ["basic", "english"])
@pytest.mark.parametrize("word, other", OTHER_WORDS.values(), ids=OTHER_WORDS)
def test_marks_are_parts_of_words(word: str, other: str, name: str) -> None:
    normalize = get_normalizer(name)
    reference, hypothesis = f"{word} {word}", f"{word} {other}"
    found = tally([reference], align([normalize(reference)], [normalize(hypothesis)]))
    assert (found.reference_words, found.substitutions) == (2, 1)
    assert normalize(word) == BasicTextNormalizer(preserve_marks=True)(word)


SAME = {
    "composed or not": ("basic", "cafe\u0301 ve\u0301lo", "caf\u00e9 v\u00e9lo"),
    "Yoruba without a character of its own": ("basic", "e\u0323\u0300ko\u0323\u0301", "\u1eb9\u0300k\u1ecd\u0301"),
    "Latin accents are dropped": ("english", "na\u00efve fac\u0327ade", "naive facade"),
    "Turkish": ("basic", "\u0130stanbul", "istanbul"),
    "emoji": ("basic", "I \u2764\ufe0f it 1\ufe0f\u20e3", "i it 1"),
    "direction": ("basic", "\u200f\u0634\u0643\u0631\u0627\u200e \u202bx\u202c", "\u0634\u0643\u0631\u0627 x"),
    "byte order mark": ("english", "\ufeffso", "so"),
    **{f"apostrophe {ord(c):x}": ("english", f"don{c}t he{c}s we{c}ll", "do not he is we will")
       for c in "'\u2019\u2018\u201b\u02bc\u02bb\uff07\u00b4`\u2032"},
}  # fmt: skip


@pytest.mark.parametrize("name, text, expected", SAME.values(), ids=SAME)
def test_what_is_written_differently_is_the_same_word(name: str, text: str, expected: str) -> None:
    assert get_normalizer(name)(text) == expected


def test_basic_is_whispers_where_no_mark_parts_words() -> None:
    text = "Stra\u00dfe, \u00bfqu\u00e9 (tal)? [noise] \u4f60\u597d\u3002 \ud55c\uad6d\uc5b4 \uff11 M\u00fcller's"
    assert get_normalizer("basic")(text) == " ".join(Transformers()(text).split())


SCRIPTS = {
    "Chinese": ("\u4eca\u5929\u5929\u6c14", True),
    "Japanese": ("\u65e5\u672c\u8a9e\u306e\u30c6\u30b9\u30c8", True),
    "Thai": ("\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22", True),
    "Lao": ("\u0eaa\u0eb0\u0e9a\u0eb2\u0e8d\u0e94\u0eb5", True),
    "Khmer": ("\u1781\u17d2\u1789\u17bb\u17c6", True),
    "Burmese": ("\u1019\u103c\u1014\u103a\u1019\u102c", True),
    "Chinese with English terms": ("\u6211\u4eec\u7528 machine learning \u505a transformer", True),
    "English with a name": ("they say that Tokyo is written \u6771\u4eac there", False),
    "Korean": ("\ud55c\uad6d\uc5b4 \uc785\ub2c8\ub2e4", False),
    "Hindi": ("\u0928\u092e\u0938\u094d\u0924\u0947", False),
    "Vietnamese": ("Ti\u1ebfng Vi\u1ec7t", False),
    "digits": ("1 2 3", False),
    "nothing": ("", False),
}


@pytest.mark.parametrize("text, spaceless", SCRIPTS.values(), ids=SCRIPTS)
def test_scripts_without_spaces(text: str, spaceless: bool) -> None:
    assert writes_no_spaces([text]) is spaceless


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
    for too_few in ([], [(1, 4)]):  # of one utterance nobody knows how others come out
        assert all(math.isnan(end) for end in bootstrap_interval(too_few))


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
