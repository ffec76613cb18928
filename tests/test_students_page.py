"""The page on students of a real Whisper says what its results say."""

import importlib
import re
import sys
from pathlib import Path

import pytest
from support.reported import Transcribed, write_evaluation, write_teacher, write_training

FOLDER = Path(__file__).parents[1] / "examples" / "students"
PAGE = (FOLDER / "RESULTS.md").read_text(encoding="utf-8")
TABLE = "\n".join(path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("results/**/table.md")))
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ")]


def test_there_are_tables():
    assert len(ROWS) > 5


@pytest.mark.parametrize("row", ROWS)
def test_each_row_is_one_of_the_results(row):
    assert row in TABLE.splitlines()


def test_each_interval_in_the_text_is_one_of_the_results():
    found = re.findall(r"[+-]?[\d.]+ \([+-]?[\d.]+ to [+-]?[\d.]+\)", " ".join(PAGE.split()))
    assert found and not [interval for interval in found if interval not in TABLE]


@pytest.fixture
def scripts(monkeypatch):
    """table.py and measured.py of the example."""
    for folder in ("students", "benchmarks"):
        monkeypatch.syspath_prepend(FOLDER.parent / folder)
    before = set(sys.modules)
    yield importlib.import_module("table"), importlib.import_module("measured")
    for name in {"table", "measured", "tables", "outlier_tables", "growth", "pictures", "words"} - before:
        sys.modules.pop(name, None)


WRONG = {  # errors in 120 words by gate and seed, in float and in INT8
    "none": {0: (10, 12), 1: (20, 28), 2: (14, 18)},
    "headwise": {1: (18, 21), 2: (11, 13), 3: (30, 40)},
}


def test_a_gate_is_compared_with_the_same_seeds_without_it(scripts, tmp_path):
    table, measured = scripts
    found = []
    for gate, seeds in WRONG.items():
        for seed, wrong in seeds.items():
            run = tmp_path / "students" / f"4+2-{gate}" / f"seed-{seed}"
            write_training(run, write_teacher(tmp_path / "teacher"), 4, gate, seed)
            for system, errors in zip(("float", "gemm"), wrong, strict=True):
                write_evaluation(run, run / "distilled", system, [Transcribed("clean", errors)], "float", seed)
            found.append(measured.Student("4+2", gate, seed, run))
    words = table.Words(found, ("float", "gemm"))
    (saved,) = table.savings(words, list(dict.fromkeys(map(table.key_of, found))), ("gemm",))
    assert saved["seeds"] == [1, 2]
    assert saved["float"]["points"] == pytest.approx(100 * ((18 - 20) + (11 - 14)) / 2 / 120)
    assert saved["gemm"]["points"] == pytest.approx(100 * ((8 - 3) + (4 - 2)) / 2 / 120)
    apart = table.savings(words, list(dict.fromkeys(map(table.key_of, found))), ("gemm",), apart=True)
    each = [(one["seeds"], one["gemm"]["points"]) for one in apart]
    assert each == [([1], pytest.approx(100 * (8 - 3) / 120)), ([2], pytest.approx(100 * (4 - 2) / 120))]
    assert words.rate(("4+2", "none", None), "gemm", [1])[0] == pytest.approx([100 * 28 / 120])
    write_evaluation(run, run / "distilled", "other", [Transcribed("clean", 1, utterances=39)], "float", 3)
    with pytest.raises(SystemExit, match="eval/other is of other utterances"):
        table.Words(found[-1:], ("float", "other"))


def test_pictures_are_there():
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", PAGE):
        assert (FOLDER / picture).is_file(), picture
