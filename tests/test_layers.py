"""Which teacher layers a student copies: the paper's, and distil-whisper's by numpy.linspace."""

import numpy as np
import pytest

from whisperq.errors import UsageError
from whisperq.models.layers import copied_layers, parse_indices


@pytest.mark.parametrize(
    "teacher, count, rule, expected",
    [
        (32, 8, "first", [0, 4, 8, 12, 16, 20, 24, 28]),
        (32, 16, "first", list(range(0, 32, 2))),
        (32, 24, "first", [i for i in range(32) if i % 4 != 3]),
        (32, 32, "first", list(range(32))),
        (4, 3, "first", [0, 1, 2]),
        (32, 1, "first", [0]),
        (32, 2, "spread", [0, 31]),
        (32, 1, "spread", [0]),
        (3, 3, "spread", [0, 1, 2]),
        (6, 4, "spread", [0, 1, 3, 5]),
    ],
)
def test_copied_layers(teacher, count, rule, expected):
    assert copied_layers(teacher, count, rule, "encoder") == expected


@pytest.mark.parametrize("teacher", [4, 6, 12, 24, 32])
def test_spread_is_distil_whispers_rule(teacher):
    """numpy.linspace(0, L - 1, n, dtype=int) with the last one set to L - 1."""
    for count in range(2, teacher + 1):
        expected = np.linspace(0, teacher - 1, count).round(9).astype(int).tolist()
        assert copied_layers(teacher, count, "spread", "encoder") == expected


@pytest.mark.parametrize("rule", ["first", "spread"])
def test_layers_are_distinct_and_ascending(rule):
    for teacher in range(1, 33):
        for count in range(1, teacher + 1):
            layers = copied_layers(teacher, count, rule, "encoder")
            assert layers == sorted(set(layers)) and len(layers) == count and 0 <= layers[0] <= layers[-1] < teacher


@pytest.mark.parametrize("count", [0, -1, 33])
def test_impossible_counts(count):
    with pytest.raises(UsageError, match=f"{count} decoder layers.*32"):
        copied_layers(32, count, "spread", "decoder")


@pytest.mark.parametrize("text, expected", [("0,2,5", [0, 2, 5]), ("-1", [5]), (" 0, -6 ,3", [0, 0, 3])])
def test_parse_indices(text, expected):
    assert parse_indices(text, 6, "encoder") == expected


@pytest.mark.parametrize("text, named", [("0,six", "'0,six'"), ("", "''"), ("0,6", "layer 6"), ("-7", "layer -7")])
def test_indices_that_cannot_be(text, named):
    with pytest.raises(UsageError, match="--decoder-indices.*" + named):
        parse_indices(text, 6, "decoder")
