"""Hundreds of single-field changes to what artifacts say: a command does its work or refuses in one sentence."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import run_command
from support.damage import Case, check_refused, refusal, reseal

from whisperq import artifact
from whisperq.errors import InputError

WRONG: tuple[Any, ...] = (
    None, True, -1, 10**30, 0.5, float("nan"), float("inf"), "text", "[/b]", [], {}, [[1]], {"a": {"b": None}},
)  # fmt: skip
GONE = object()


def places(content: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path of every field."""
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def changed(content: Any, path: tuple, value: Any) -> Any:
    result = copy.deepcopy(content)
    inner = result
    for key in path[:-1]:
        inner = inner[key]
    if value is GONE:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return result


def drawn(content: Any, count: int) -> Iterator[tuple[tuple, Any, Any]]:
    """Some changes, the same each time: a field, what it becomes, and the whole."""
    generator, fields = random.Random(count), list(places(content))
    chosen = [p for p in fields if len(p) <= 3] + generator.sample(fields, min(count, len(fields)))
    for path in generator.sample(chosen, min(count, len(chosen))):
        value = generator.choice((GONE, *WRONG))
        yield path, value, changed(content, path, value)


KINDS = {
    "manifest of a student": ("student", "manifest.json", ("show run/student", "distill --out new --dry-run")),
    "manifest of a calibration": ("calibration", "manifest.json", ("show run/calibration", "quantize --dry-run")),
    "manifest of a quantized model": (
        "quantized/gemm-w8a8", "manifest.json",
        ("show run/quantized/gemm-w8a8", "export --model gemm-w8a8 --dry-run", "eval --model gemm-w8a8 --dry-run"),
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("place, name, commands", KINDS.values(), ids=KINDS)
def test_every_field_of_a_manifest(place, name, commands, copied_run):
    file = copied_run / place / name
    content, refused = json.loads(file.read_text()), 0
    for path, value, whole in drawn(content, 60):
        file.write_text(json.dumps(whole))
        for command in commands:
            result = run_command(*command.split())
            said = f"{path} = {value!r}: {command}: {result.output[-500:]}"
            assert result.exit_code in (0, 2, 3) and "unexpected" not in result.output, said
            refused += result.exit_code == 3
    assert refused > 60  # and not because all of it was let through


def test_every_field_of_the_grids(copied_run):
    from whisperq.ptq.arrays import open_stored
    from whisperq.ptq.ranges_file import read_ranges, site_ranges

    readers = {
        "quantized/gemm-w8a8/qparams.json": open_stored,
        "calibration/ranges.json": lambda folder: site_ranges(folder, read_ranges(folder)["sites"], "ema", 8),
    }
    for name, read in readers.items():
        file = copied_run / name
        content, refused = json.loads(file.read_text()), 0
        for path, value, whole in drawn(content, 150):
            file.write_text(json.dumps(whole))
            try:
                read(file.parent)
            except InputError as error:
                refused += 1
                assert file.name in str(error) or "earlier version" in str(error) or "lacks" in str(error), error
            except Exception as error:
                raise AssertionError(f"{name}: {path} = {value!r}") from error
        assert refused > 75


NAMED = {
    "inputs a text": (("inputs",), "model", "inputs is \"model\", but must be an object"),
    "no sha256": (("inputs", "teacher", "sha256"), GONE, "inputs.teacher.sha256 is missing"),
    "a sha256 of two letters": (("inputs", "teacher", "sha256"), "ab", "inputs.teacher.sha256 is \"ab\""),
    "a layer map of one number": (("results", "layer_map"), 7, "results.layer_map is 7, but must be an object"),
    "a file's hash a number": (("files", "config.json"), 1, "files.config.json is 1"),
    "a negative count": (("results", "parameters", "total"), -4, "results.parameters.total is -4"),
    "NaN": (("results", "parameters", "total"), float("nan"), "NaN"),
    "a schema of true": (("schema",), True, "schema is true"),
}  # fmt: skip


@pytest.mark.parametrize("path, value, words", NAMED.values(), ids=NAMED)
def test_the_field_is_named(path, value, words, copied_run, invoke):
    file = copied_run / "student/manifest.json"
    file.write_text(json.dumps(changed(json.loads(file.read_text()), path, value)))
    result = invoke("show", "run/student")
    assert result.exit_code == 3
    assert "run/student/manifest.json is damaged" in refusal(result) and words in refusal(result)


@pytest.mark.parametrize("depth", [60, 900, 100_000])
def test_nesting_without_end_is_refused(depth, copied_run, invoke):
    file = copied_run / "student/manifest.json"
    text = file.read_text().replace('"results": {', '"results": {"deep": ' + "[" * depth + "]" * depth + ", ", 1)
    file.write_text(text)
    assert invoke("show", "run/student").exit_code == 3
    with pytest.raises(InputError, match="is damaged"):
        artifact.load(file.parent)


WRONG_KINDS = {
    "a quantized student": Case("distill --out new --model gemm-w8a8", 3, ("gemm-w8a8 holds a quantized", "a student")),
    "a quantized teacher": Case(
        "init-student --out new --teacher run/quantized/gemm-w8a8", 3, ("gemm-w8a8 holds a quantized model", "float")
    ),
    "a quantized model again": Case("calibrate --out new --model gemm-w8a8", 3, ("gemm-w8a8 is quantized already",)),
    "a calibration as a teacher": Case("init-student --out new --teacher run/calibration", 3, ("run/calibration",)),
    "a model as a calibration": Case("quantize --calibration run/distilled", 3, ("holds a distilled", "calibration")),
    "a student as an evaluation": Case("compare run/student run/distilled", 3, ("run/student holds a student",)),
    "a student to score": Case("score run/student", 3, ("run/student holds a student", "evaluation or score")),
    "a student's sensitivity": Case(
        "quantize --out new --keep-worst 1 --sensitivity run/student", 3, ("run/student holds a student",)
    ),
    "robustness of floats": Case("robustness --model distilled", 3, ("run/distilled holds a distilled", "quantized")),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_KINDS.values(), ids=WRONG_KINDS)
def test_the_wrong_kind_is_one_sentence(case, copied_run, workspace, invoke):
    check_refused(case, invoke, workspace)


def test_a_calibration_of_other_channels_is_refused(copied_run, invoke):
    from safetensors.torch import load_file, save_file

    folder = copied_run / "calibration"
    path, name = folder / "channel_maxima.safetensors", "enc.0.context.minima"
    whole = load_file(path)
    values, other = whole[name], "enc.0.context.maxima"
    narrow = {name: values[:, :3], other: whole[other][:, :3]}
    for tensors in (narrow, {name: values * float("nan")}, {name: values[0]}, {name: values.long()}):
        save_file(whole | {k: v.contiguous() for k, v in tensors.items()}, path)
        reseal(folder)
        result = invoke("quantize", "--out", "new")
        assert result.exit_code == 3 and "channel_maxima.safetensors is damaged: enc.0.context" in refusal(result)


@pytest.mark.parametrize("known", [5, "ab", [1.0], [2.0, 1.0], [0.0, 1e308], None, {}, [True, False]])
def test_a_range_known_by_mathematics_is_checked_like_the_others(known, copied_run, workspace, invoke):
    path = copied_run / "calibration/ranges.json"
    content = json.loads(path.read_text())
    content["sites"]["enc.conv1:input"]["known"] = known
    path.write_text(json.dumps(content))
    reseal(path.parent)
    result = invoke("quantize", "--observer", "minmax", "--out", "new")
    assert result.exit_code == 3 and "ranges.json is damaged: sites.enc.conv1:input.known" in refusal(result)
