"""The page on students of a real Whisper says what its results say."""

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples" / "students"
PAGE = (FOLDER / "RESULTS.md").read_text(encoding="utf-8")
TABLE = (FOLDER / "results" / "table.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ")]


def test_there_are_tables():
    assert len(ROWS) > 5


@pytest.mark.parametrize("row", ROWS)
def test_each_row_is_one_of_the_results(row):
    assert row in TABLE.splitlines()


def test_each_interval_in_the_text_is_one_of_the_results():
    found = re.findall(r"[+-]?[\d.]+ \([+-]?[\d.]+ to [+-]?[\d.]+\)", " ".join(PAGE.split()))
    assert found and not [interval for interval in found if interval not in TABLE]


def test_pictures_are_there():
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", PAGE):
        assert (FOLDER / picture).is_file(), picture
