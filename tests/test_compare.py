"""`compare`: a model with itself, differences that are known, the tests by hand, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Invoke, write_lines
from scipy.stats import binomtest, bootstrap, norm, t, ttest_1samp, ttest_rel

from whisperq.results.cells import signed
from whisperq.scoring.alignment import align
from whisperq.scoring.comparison import choose_blocks, paired_bootstrap
from whisperq.scoring.normalizers import get_normalizer
from whisperq.scoring.segment_test import matched_pairs, segments
from whisperq.scoring.words import count_errors

WORDS = "zero one two three four five six seven eight nine".split()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WHISPERQ_RUN", raising=False)
    return tmp_path


def compared(invoke: Invoke, *arguments: str) -> dict:
    done = invoke("compare", *arguments, "--normalizer", "none", "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)["results"]


def spoiled(generator: np.random.Generator, text: str, rate: float) -> str:
    """Each word wrong with this probability."""
    return " ".join("wrong" if generator.random() < rate else word for word in text.split())


def system(path: Path, rate: float, seed: int = 1, count: int = 60, **known: Callable[[int], str]) -> Path:
    """A hypotheses file; every system has the same references."""
    texts, noise = np.random.default_rng(0), np.random.default_rng(seed)
    lines = []
    for i in range(count):
        text = " ".join(texts.choice(WORDS, 10))
        fields = {key: value(i) for key, value in known.items()}
        lines.append({"id": f"u{i}", "text": text, "pred_text": spoiled(noise, text, rate), **fields})
    return write_lines(path, lines)


def test_a_model_with_itself(here: Path, invoke: Invoke) -> None:
    system(here / "a.jsonl", 0.2)
    found = compared(invoke, "a.jsonl", "a.jsonl")["sets"]["a"]
    assert (found["difference"], found["interval_95"], found["p"]) == (0, [0, 0], 1)
    assert (found["matched_pairs"]["z"], found["matched_pairs"]["p"]) == (0, 1)
    assert found["verdict"] == "undecided" and found["equal_hypotheses"] == 60  # six hundred words prove nothing
    system(here / "b.jsonl", 0.2, count=200)
    assert compared(invoke, "b.jsonl", "b.jsonl")["sets"]["b"]["verdict"] == "non-inferior"


def simulated(generator: np.random.Generator, blocks: int) -> tuple[list[tuple[int, int]], list[int], list[int]]:
    """Hypotheses of two systems, B two points worse: errors, words and blocks of each utterance.

    A voice is easy or hard for both, and some suit B less: errors of one block go together.
    """
    errors, words, owners = [], [], []
    for block in range(blocks):
        rate, extra = generator.beta(2, 18), generator.uniform(0, 0.04)
        references = [" ".join(generator.choice(WORDS, 12)) for _ in range(3)]
        hypotheses = [[spoiled(generator, text, r) for text in references] for r in (rate, rate + extra)]
        counted = [count_errors(references, texts, get_normalizer("none")).per_utterance for texts in hypotheses]
        errors += [(a, b) for (a, _), (b, _) in zip(*counted, strict=True)]
        words += [12] * 3
        owners += [block] * 3
    return errors, words, owners


@pytest.mark.slow
def test_intervals_cover_the_known_difference() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        difference = paired_bootstrap(*simulated(generator, 60), resamples=1000, seed=seed)
        low, high = difference.interval
        covered += low <= 2.0 <= high
    assert 0.91 <= covered / 200 <= 0.98


def test_interval_agrees_with_scipy() -> None:
    errors, words, owners = simulated(np.random.default_rng(5), 80)
    found = paired_bootstrap(errors, words, owners, resamples=20_000, seed=0)
    sums = np.array([np.bincount(owners, column) for column in (*np.array(errors).T, words)])
    expected = bootstrap(
        tuple(sums), lambda a, b, n, axis: 100 * (b - a).sum(axis) / n.sum(axis),
        paired=True, method="percentile", n_resamples=20_000, rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    assert found.interval == pytest.approx((expected.low, expected.high), abs=0.05)
    assert found.points == pytest.approx(100 * (sums[1] - sums[0]).sum() / sums[2].sum())


def test_p_value_is_near_the_paired_t_tests() -> None:
    generator = np.random.default_rng(3)
    errors = [(int(a), int(b)) for a, b in generator.poisson((1.0, 1.1), (400, 2))]
    found = paired_bootstrap(errors, [10] * 400, range(400), resamples=20_000, seed=0)
    assert found.p == pytest.approx(ttest_rel(*zip(*errors, strict=True)).pvalue, abs=0.03)


def test_blocks_widen_the_interval_where_errors_go_together() -> None:
    generator = np.random.default_rng(0)
    errors = [(0, int(extra)) for extra in generator.integers(0, 3, 40) for _ in range(10)]
    widths = [
        np.ptp(paired_bootstrap(errors, [10] * 400, blocks, resamples=4000, seed=0).interval)
        for blocks in (range(400), [i // 10 for i in range(400)])
    ]
    assert widths[1] == pytest.approx(widths[0] * 10**0.5, rel=0.1)


def test_resamples_are_repeatable_and_bounded_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    data = simulated(np.random.default_rng(0), 30)
    whole = paired_bootstrap(*data, resamples=500, seed=3)
    monkeypatch.setattr("whisperq.scoring.comparison.DRAWN_AT_ONCE", 100)
    assert whole.interval == paired_bootstrap(*data, resamples=500, seed=3).interval
    assert whole.interval != paired_bootstrap(*data, resamples=500, seed=4).interval


VERDICTS = {
    "better": (0.3, 0.1, 0.3, "better"),
    "worse": (0.1, 0.3, 0.3, "worse"),
    "within a wide margin": (0.2, 0.2, 20.0, "non-inferior"),
    "too few words": (0.2, 0.2, 0.3, "undecided"),
}


def test_as_many_words_as_it_says_would_tell() -> None:
    generator = np.random.default_rng(3)
    errors = [(int(a), int(b)) for a, b in generator.poisson((1.0, 1.0), (100, 2))]
    few = paired_bootstrap(errors, [10] * 100, range(100), resamples=4000, seed=0)
    assert few.verdict(1.0) == "undecided"
    times = -(-few.words_needed(1.0, 1000) // 1000)
    assert times > 4
    many = [
        paired_bootstrap(errors * n, [10] * 100 * n, range(100 * n), 4000, 0) for n in (max(1, times // 2), times + 1)
    ]
    assert [m.verdict(1.0) == "undecided" for m in many] == [True, False]


HARDLY = {  # errors of A and of B in each of six utterances of 3,000, and what the interval's ends begin with
    "worse": (0, 1, "worse", "++"),
    "better": (1, 0, "better", "--"),
    "nothing": (1, 1, "non-inferior", "++"),
}


@pytest.mark.parametrize("of_a, of_b, verdict, signs", HARDLY.values(), ids=HARDLY)
def test_an_interval_without_zero_shows_none(
    of_a: int, of_b: int, verdict: str, signs: str, here: Path, invoke: Invoke
) -> None:
    text = "a b c d e f g h i j k l m n o p q r s t"
    for name, wrong in (("a", of_a), ("b", of_b)):
        heard = [text.replace("a", "x") if wrong and i < 6 else text for i in range(3000)]
        write_lines(here / f"{name}.jsonl", [{"id": str(i), "text": text, "pred_text": h} for i, h in enumerate(heard)])
    assert compared(invoke, "a.jsonl", "b.jsonl", "--out", "c")["sets"]["a"]["verdict"] == verdict
    row = next(line for line in (here / "c" / "comparison.md").read_text().splitlines() if line.startswith("| a |"))
    ends = row.split(" | ")[4].split(" to ")
    assert "".join(end[0] for end in ends) == signs
    assert [float(end) == 0 for end in ends] == [of_a == of_b] * 2


@pytest.mark.parametrize(
    "value, digits, shown",
    [(0.0, 2, "+0.00"), (-0.004, 2, "-0.004"), (0.0496, 1, "+0.05"), (0.006, 2, "+0.01"), (-1e-17, 2, "+0.00"),
     (-12.345, 1, "-12.3"), (2e-6, 2, "+0.000002"), (0.05, 1, "+0.1")],
)  # fmt: skip
def test_signs_are_never_rounded_away(value: float, digits: int, shown: str) -> None:
    assert signed(value, digits) == shown


SKEWED = {  # errors of A and B in one utterance that runs in circles; in 220 of 500 others the other makes one error
    "A in circles": ([(70, 0), *[(0, 1)] * 220], 0.3),
    "A in circles, more": ([(80, 0), *[(0, 1)] * 220], 0.3),
    "B in circles": ([(0, 80), *[(1, 0)] * 220], 0.3),
    "B in circles, no margin": ([(0, 84), *[(1, 0)] * 220], 0.0),
}


@pytest.mark.parametrize("errors, margin", SKEWED.values(), ids=SKEWED)
def test_it_never_takes_fewer_words_than_decided_nothing(errors: list[tuple[int, int]], margin: float) -> None:
    errors = errors + [(0, 0)] * (501 - len(errors))
    found = paired_bootstrap(errors, [20] * 501, range(501), resamples=10_000, seed=0)
    assert found.verdict(margin) == "undecided"
    assert found.words_needed(margin, 20 * 501) >= 20 * 501


def test_without_spaces_characters_are_compared(here: Path, invoke: Invoke) -> None:
    reference = "\u4eca\u5929\u5929\u6c14\u5f88\u597d\u6211\u4eec\u53bb\u516c"
    hypotheses = {"a": reference, "b": reference.replace("\u516c", "\u82b1")}
    for name, text in hypotheses.items():
        write_lines(here / f"{name}.jsonl", [{"id": str(i), "text": reference, "pred_text": text} for i in range(30)])
    found = compared(invoke, "a.jsonl", "b.jsonl", "--out", "c")["sets"]["a"]
    assert (found["measure"], found["cer_a"], found["cer_b"]) == ("cer", 0, pytest.approx(0.1))
    assert (found["difference"], found["reference_characters"]) == (pytest.approx(10), 300)
    text = (here / "c" / "comparison.md").read_text()
    assert "| CER A | CER B |" in text and "300 characters" in text
    by_words = compared(invoke, "a.jsonl", "b.jsonl", "--measure", "wer")["sets"]["a"]
    assert (by_words["wer_b"], by_words["reference_words"]) == (1, 30)


def test_evaluations_of_two_measures_or_versions(here: Path, invoke: Invoke) -> None:
    write_lines(here / "x.jsonl", [{"id": "1", "text": "a b", "pred_text": "a c"}])
    for measure in ("wer", "cer"):
        assert invoke("score", "x.jsonl", "--normalizer", "none", "--measure", measure, "--out", measure).exit_code == 0
    done = invoke("compare", "wer", "cer")
    assert done.exit_code == 2 and "give --measure" in done.stderr
    manifest = json.loads((here / "wer" / "manifest.json").read_text())
    for key in ("measure", "normalizer_version"):
        del manifest["results"]["sets"]["x"][key]
    (here / "wer" / "manifest.json").write_text(json.dumps(manifest))
    done = invoke("compare", "wer", "cer", "--measure", "wer", "--json")
    assert json.loads(done.stdout)["results"]["sets"]["x"]["wer_a"] == 0.5
    assert "A, wer, was scored by version 1 of the normalisers" in " ".join(done.stderr.split())


@pytest.mark.parametrize("a, b, margin, verdict", VERDICTS.values(), ids=VERDICTS)
def test_verdicts(a: float, b: float, margin: float, verdict: str, here: Path, invoke: Invoke) -> None:
    system(here / "a.jsonl", a, count=200), system(here / "b.jsonl", b, seed=2, count=200)
    results = compared(invoke, "a.jsonl", "b.jsonl", "--margin", str(margin))
    found = results["sets"]["a"]
    assert (found["verdict"], found["reference_words"]) == (verdict, 2000)
    low, high = found["interval_95"]
    assert low < found["difference"] < high
    assert found["difference"] == pytest.approx(100 * (found["wer_b"] - found["wer_a"]))
    assert found["within_margin"] == (high < margin)
    if verdict == "undecided":
        points = found["difference"]
        toward_zero = (points - low if points > 0 else high - points) / abs(points)
        times = min(toward_zero, (high - points) / (margin - points)) if points < margin else toward_zero
        assert found["words_needed"] == pytest.approx(2000 * times**2, abs=1)


def test_the_table_says_at_how_many_words_nothing_is_decided(here: Path, invoke: Invoke) -> None:
    system(here / "a.jsonl", 0.2), system(here / "b.jsonl", 0.2, seed=2)
    done = invoke("compare", "a.jsonl", "b.jsonl", "--normalizer", "none")
    assert "undecided at 600 words" in " ".join(done.stdout.replace("│", " ").split())
    text = next(here.glob("run/comparisons/a-vs-b/comparison.md")).read_text()
    assert "undecided at 600 words; about" in text and "60 utterances" in text


BLOCKS = {
    "speakers": ({"speaker": lambda i: f"s{i % 30}"}, (), ("speaker", 30)),
    "too few speakers": ({"speaker": lambda i: f"s{i % 6}"}, (), ("utterance", 60)),
    "wanted all the same": ({"speaker": lambda i: f"s{i % 6}"}, ("--blocks", "speaker"), ("speaker", 6)),
    "recordings": ({"audio_filepath": lambda i: f"{i // 3}.wav"}, (), ("recording", 20)),
    "one recording each": ({"audio_filepath": lambda i: f"{i}.wav"}, (), ("utterance", 60)),
    "utterances": ({"speaker": lambda i: f"s{i % 30}"}, ("--blocks", "utterance"), ("utterance", 60)),
}


@pytest.mark.parametrize("known, flags, expected", BLOCKS.values(), ids=BLOCKS)
def test_blocks_are_named(known: dict, flags: tuple, expected: tuple, here: Path, invoke: Invoke) -> None:
    system(here / "a.jsonl", 0.2, **known), system(here / "b.jsonl", 0.2, seed=2, **known)
    found = compared(invoke, "a.jsonl", "b.jsonl", *flags)["sets"]["a"]
    assert (found["blocked_by"], found["blocks"]) == expected


def test_a_few_speakers_decide_nothing(here: Path, invoke: Invoke) -> None:
    """However many words they say, and however far the systems are apart."""
    alike = {"count": 300, "speaker": lambda i: "one"}
    system(here / "a.jsonl", 0.1, **alike), system(here / "b.jsonl", 0.5, seed=2, **alike)
    found = compared(invoke, "a.jsonl", "b.jsonl", "--blocks", "speaker")["sets"]["a"]
    low, high = found["interval_95"]
    assert (found["blocks"], found["verdict"]) == (1, "undecided") and low == high > 1


@pytest.mark.parametrize("count, p", [(1, 1), (3, 0.25), (10, 0.5**9), (19, 2 / 10_001)])
def test_a_few_utterances_have_no_small_p_value(count: int, p: float, here: Path, invoke: Invoke) -> None:
    """Each of them is one error worse: no resample knows that it may be chance, but the sign test does."""
    assert p == pytest.approx(max(binomtest(count, count).pvalue, 2 / 10_001))
    lines = [{"id": f"u{i}", "text": "one two"} for i in range(count)]
    write_lines(here / "a.jsonl", [line | {"pred_text": "one two"} for line in lines])
    write_lines(here / "b.jsonl", [line | {"pred_text": "one too"} for line in lines])
    found = compared(invoke, "a.jsonl", "b.jsonl")["sets"]["a"]
    assert (found["difference"], found["p"], found["verdict"]) == (50, pytest.approx(p), "undecided")


@pytest.mark.parametrize("count, few", [(4, True), (60, False)])
def test_the_normal_distribution_is_not_taken_for_granted(count: int, few: bool, here: Path, invoke: Invoke) -> None:
    """Of four segments z is -3, for which Student's t, as the differences are paired, has a p twenty times as large."""
    assert ttest_1samp([-1, -1, -1, -3], 0).statistic == pytest.approx(-3)
    assert (t.sf(3, 3) / norm.sf(3)) > 20
    lines = [{"id": f"u{i}", "text": "one two three", "pred_text": "one two three"} for i in range(count)]
    wrong = [line | {"pred_text": "four five six" if i % 4 == 3 else "one two four"} for i, line in enumerate(lines)]
    write_lines(here / "a.jsonl", wrong), write_lines(here / "b.jsonl", lines)
    done = invoke("compare", "a.jsonl", "b.jsonl", "--normalizer", "none", "--out", "found")
    shown = (here / "found" / "comparison.md").read_text()
    assert done.exit_code == 0 and f"| {count} | -1.500 |" in shown and ("few segments" in shown) == few


def test_many_speakers_are_not_called_few(here: Path, invoke: Invoke) -> None:
    system(here / "a.jsonl", 0.1, speaker=lambda i: f"s{i}"), system(here / "b.jsonl", 0.1, speaker=lambda i: f"s{i}")
    done = invoke("compare", "a.jsonl", "b.jsonl", "--normalizer", "none")
    assert done.exit_code == 0 and "too few to resample by" not in done.stderr


@pytest.mark.parametrize("order", [("s", "b.jsonl"), ("b.jsonl", "s")])
def test_the_normaliser_is_the_one_that_either_was_scored_by(order: tuple, here: Path, invoke: Invoke) -> None:
    system(here / "a.jsonl", 0.1), system(here / "b.jsonl", 0.2, seed=2)
    assert invoke("score", "clean=a.jsonl", "--normalizer", "none", "--out", "s").exit_code == 0
    done = invoke("compare", *order, "--json")
    assert done.exit_code == 0, done.stderr
    (found,) = json.loads(done.stdout)["results"]["sets"].values()
    assert found["normalizer"] == "none"


def test_one_unnamed_utterance_is_no_block() -> None:
    names = [f"s{i % 30}" for i in range(90)]
    assert choose_blocks([*names, None], [None] * 91)[0] == "utterance"
    assert choose_blocks([*names, None], [*names, "s0"])[0] == "recording"


def alignments(reference: str, *hypotheses: str) -> list:
    return [align([reference], [hypothesis])[0] for hypothesis in hypotheses]


SEGMENTS = {
    "none": ("a b c d", "a b c d", "a b c d", []),
    "two right words divide": ("a b c d", "x b c d", "a b c y", [(1, 0), (0, 1)]),
    "one right word does not": ("a b c", "x b c", "a b y", [(1, 1)]),
    "an insertion is an error": ("a b c d", "a b z c d", "a b c d", [(1, 0)]),
    "insertions keep words apart": ("a b c d e", "x b z c d e", "a b c d e", [(2, 0)]),
    "right for both": ("a b c d e f", "x b c d e f", "a y z d e f", [(1, 2)]),
    "to the end": ("a b c", "a b", "a b c d", [(1, 1)]),
    "all wrong": ("a b", "", "x y", [(2, 2)]),
}


@pytest.mark.parametrize("reference, a, b, expected", SEGMENTS.values(), ids=SEGMENTS)
def test_segments_worked_by_hand(reference: str, a: str, b: str, expected: list) -> None:
    assert list(segments(*alignments(reference, a, b))) == expected


def test_matched_pairs_is_the_papers_statistic() -> None:
    generator = np.random.default_rng(0)
    references = [" ".join(generator.choice(WORDS, 15)) for _ in range(80)]
    a, b = ([spoiled(generator, text, rate) for text in references] for rate in (0.1, 0.2))
    found = matched_pairs(align(references, a), align(references, b))
    differences = [y - x for pair in zip(align(references, a), align(references, b), strict=True)
                   for x, y in segments(*pair)]  # fmt: skip
    test = ttest_rel(differences, np.zeros(len(differences)))
    assert found.z == pytest.approx(test.statistic) and found.segments == len(differences) > 80
    assert found.p == pytest.approx(test.pvalue, abs=1e-3)
    assert sum(differences) == sum(x != y for h in (b,) for t, u in zip(references, h, strict=True)
                                   for x, y in zip(t.split(), u.split(), strict=True)) - sum(
        x != y for t, u in zip(references, a, strict=True) for x, y in zip(t.split(), u.split(), strict=True)
    )  # fmt: skip


def test_differences_without_spread_have_no_p_value() -> None:
    found = matched_pairs(alignments("a b", "a b"), alignments("a b", "a x"))
    assert (found.segments, found.mean, found.z, found.p) == (1, 1, None, None)


def test_what_changed_most_is_shown_side_by_side(here: Path, invoke: Invoke) -> None:
    texts = ["one two three four", "five six", "seven eight nine"]
    a, b = ["one two three four", "five", "seven ate nine"], ["won too three for", "five six", "seven ate nine ten"]
    for name, hypotheses in (("a", a), ("b", b)):
        pairs = zip(texts, hypotheses, strict=True)
        write_lines(here / f"{name}.jsonl", [{"id": t[:3], "text": t, "pred_text": h} for t, h in pairs])
    compared(invoke, "a.jsonl", "b.jsonl", "--out", "c", "--changed", "2")
    text = (here / "c" / "changed" / "a.txt").read_text()
    assert text.index("one: A 0 errors, B 3 in 4 words") < text.index("fiv: A 1 errors, B 0 in 2 words")
    assert "sev:" not in text and "3 of 3 utterances" in text
    assert "REF:  one  two  three  four\nA:    one  two  three  four\nB:    WON  TOO  three  FOR\n" in text


def test_evaluations_compare_set_by_set_and_over_all(here: Path, invoke: Invoke) -> None:
    for name, rate in (("a", 0.1), ("b", 0.3)):
        (here / name).mkdir()
        for number, test in enumerate(("clean", "noisy")):
            system(here / name / f"{test}.jsonl", rate + 0.1 * number, seed=number)
        done = invoke("score", f"{name}/clean.jsonl", f"{name}/noisy.jsonl", "--normalizer", "none", "--out",
                      f"run/scores/{name}-scored")  # fmt: skip
        assert done.exit_code == 0, done.stderr
    done = invoke("compare", "a-scored", "b-scored", "--json")  # found in the run folder; the normaliser is theirs
    results = json.loads(done.stdout)["results"]
    assert (results["a"], results["b"]) == ("a-scored", "b-scored")
    differences = [results["sets"][name]["difference"] for name in ("clean", "noisy")]
    (mean,) = results["means"]
    assert mean["difference"] == pytest.approx(np.mean(differences)) and mean["verdict"] == "worse"
    widths = [np.ptp(r["interval_95"]) for r in (mean, *results["sets"].values())]
    assert widths[0] == pytest.approx(np.hypot(*widths[1:]) / 2, rel=0.1)  # of two that are drawn independently
    assert results["sets"]["clean"]["normalizer"] == "none"
    assert "finished already" in invoke("compare", "a-scored", "b-scored").stderr


@pytest.mark.parametrize("alike", [True, False])
def test_one_utterance_in_several_sets_is_drawn_once(alike: bool, here: Path, invoke: Invoke) -> None:
    """The same recordings with more and more noise: they err together, and two sets of them know no more than one."""
    for name, rate in (("a", 0.1), ("b", 0.3)):
        system(here / f"{name}.jsonl", rate, seed=2, count=100)
        lines = [json.loads(line) for line in (here / f"{name}.jsonl").read_text().splitlines()]
        other = [line | ({} if alike else {"text": f"{line['text']} ten", "pred_text": f"{line['pred_text']} ten"})
                 for line in lines]  # fmt: skip
        write_lines(here / f"noisy-{name}.jsonl", other)
        sets = (f"clean={name}.jsonl", f"noisy=noisy-{name}.jsonl")
        assert invoke("score", *sets, "--normalizer", "none", "--out", f"s{name}").exit_code == 0
    results = compared(invoke, "sa", "sb")
    (mean,), sets = results["means"], results["sets"].values()
    widths = [high - low for low, high in (one["interval_95"] for one in (mean, *sets))]
    assert widths[0] / np.mean(widths[1:]) == pytest.approx(1 if alike else np.sqrt(0.5), abs=0.03)


def test_different_normalisers_are_refused_until_one_is_named(here: Path, invoke: Invoke) -> None:
    system(here / "x.jsonl", 0.2)
    for name in ("none", "basic"):
        assert invoke("score", "x.jsonl", "--normalizer", name, "--out", name).exit_code == 0
    done = invoke("compare", "none", "basic")
    assert done.exit_code == 2 and "basic and none" in done.stderr and "--normalizer" in done.stderr
    assert invoke("compare", "none", "basic", "--normalizer", "basic").exit_code == 0
    assert invoke("score", "x.jsonl", "--normalizer", "none", "--scorer", "sclite", "--out", "n").exit_code == 0
    done = invoke("compare", "none", "n")
    assert done.exit_code == 2 and "--scorer" in done.stderr


def test_an_evaluation_without_a_spelling_map_is_still_read(here: Path, invoke: Invoke) -> None:
    """As whisperq once left it, where the model's tokenizer brought no map: its figures keep their meaning."""
    write_lines(here / "x.jsonl", [{"id": "1", "text": "the colour", "pred_text": "the color"}])
    for name in ("new", "old"):
        assert invoke("score", "x.jsonl", "--normalizer", "english", "--out", name).exit_code == 0
    (here / "old" / "normalizer.json").unlink()
    manifest = json.loads((here / "old" / "manifest.json").read_text())
    del manifest["files"]["normalizer.json"]
    manifest["results"]["sets"]["x"]["normalizer"] = "english-without-spelling-map"
    (here / "old" / "manifest.json").write_text(json.dumps(manifest))
    alone = json.loads(invoke("compare", "old", "old", "--json").stdout)["results"]["sets"]["x"]
    assert (alone["wer_a"], alone["normalizer"]) == (0.5, "english-without-spelling-map")
    done = invoke("compare", "old", "new", "--out", "d")
    assert done.exit_code == 2 and "english and english-without-spelling-map" in done.stderr
    anew = invoke("compare", "old", "new", "--normalizer", "english", "--out", "d", "--json")
    anew = json.loads(anew.stdout)["results"]["sets"]["x"]
    assert (anew["wer_a"], anew["wer_b"], anew["normalizer"]) == (0, 0, "english")


def test_different_references_are_refused(here: Path, invoke: Invoke) -> None:
    system(here / "a.jsonl", 0.2)
    lines = [json.loads(text) for text in (here / "a.jsonl").read_text().splitlines()]
    write_lines(here / "b.jsonl", [{**line, "text": "another"} for line in lines])
    done = invoke("compare", "a.jsonl", "b.jsonl")
    assert done.exit_code == 2 and "references of u0 differ" in done.stderr and "same list" in done.stderr
    write_lines(here / "b.jsonl", lines[:50])
    done = invoke("compare", "a.jsonl", "b.jsonl")
    assert done.exit_code == 2 and "10 utterances of A are not in B" in done.stderr
    assert compared(invoke, "a.jsonl", "b.jsonl", "--common")["sets"]["a"]["utterances"] == 50


def test_what_is_no_evaluation_is_refused(here: Path, invoke: Invoke) -> None:
    system(here / "a.jsonl", 0.2)
    (here / "empty").mkdir()
    for name, words in (("nowhere", "no evaluation or hypotheses file nowhere"), ("empty", "neither a hypotheses")):
        done = invoke("compare", "a.jsonl", name)
        assert done.exit_code == 3 and words in done.stderr
    done = invoke("compare", "a.jsonl", "a.jsonl", "--blocks", "speaker")
    assert done.exit_code == 2 and "--blocks speaker" in done.stderr
