"""One declaration for each kind of artifact: what its manifest is checked by, and what a type checker knows of it."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Annotated, Literal, NotRequired, TypedDict

import pytest

from whisperq import artifact
from whisperq.errors import InputError
from whisperq.kinds import NOUNS, RESULTS, in_todays_form
from whisperq.kinds.pattern import Missing, check_of, completed, fields
from whisperq.schema import Wrong, count

ARCHIVE = Path(__file__).parent / "earlier" / "whisperq-0.1.0.tar.xz"


class Take(TypedDict):
    name: str
    ends: tuple[float, float]
    size: NotRequired[Annotated[int, count(1)]]
    speaker: Annotated[str | None, Missing(None)]


class Clip(TypedDict):
    gain: float | None
    mode: Literal["auto"] | float
    takes: list[Take]
    by_name: Annotated[dict[str, Take], Missing({})]
    kept: int | bool


GOOD = {"gain": None, "mode": "auto", "takes": [{"name": "a", "ends": [0, 1.5], "size": 2}], "kept": True}
WRONG = {
    "a number a text": ({"gain": "2"}, 'clip.gain is "2", but must be a number'),
    "another word": ({"mode": "none"}, 'clip.mode is "none", but must be "auto"'),
    "a switch where a count is": ({"takes": [{"size": True}]}, "clip.takes.0.size is true, but must be a whole number"),
    "an own check": ({"takes": [{"size": 0}]}, "clip.takes.0.size is 0, but must be a whole number of at least 1"),
    "a row too long": ({"takes": [{"ends": [1, 2, 3]}]}, "clip.takes.0.ends is [1, 2, 3], but must be a list of 2"),
    "a row's second": ({"takes": [{"ends": [1, "b"]}]}, 'clip.takes.0.ends.1 is "b", but must be a number'),
    "no object": ({"by_name": {"x": 1}}, "clip.by_name.x is 1, but must be an object"),
    "a null": ({"takes": [{"name": None}]}, "clip.takes.0.name is null, but must be a text"),
    "no list": ({"takes": {}}, "clip.takes is {}, but must be a list"),
}


@pytest.mark.parametrize("content, words", WRONG.values(), ids=WRONG)
def test_the_check_is_the_type(content, words):
    check_of(Clip)(GOOD, "clip")
    check_of(Clip)({"mode": 0.5, "kept": 3, "later": []}, "clip")  # keys may be missing, and others there
    with pytest.raises(Wrong) as refused:
        check_of(Clip)(content, "clip")
    assert str(refused.value).startswith(words)


def test_what_a_missing_key_stands_for_is_added_at_every_depth():
    found = completed(Clip, GOOD)
    assert found == {**GOOD, "takes": [{**GOOD["takes"][0], "speaker": None}], "by_name": {}}
    assert "by_name" not in GOOD and "speaker" not in GOOD["takes"][0]
    assert completed(Clip, {"by_name": {"x": {}}})["by_name"] == {"x": {"speaker": None}}


FIRST_VERSIONS = {
    "one observer": ("calibration", {"observer": "mse"}, {"observers": ["mse"], "stablequant": []}),
    "several": ("calibration", {"observers": ["ema", "mse"]}, {"observers": ["ema", "mse"]}),
    "no averages": (
        "evaluation",
        {"sets": {"a": {"normalizer": "basic", "wer": 0.5}}},
        {"averages": [{
            "normalizer": "basic", "scorer": "jiwer", "measure": "wer", "sets": ["a"], "groups": {},
            "mean_wer": 0.5, "mean_cer": None,
        }]},
    ),
    "weights that span their range": ("quantized", {"weight_scales": "rtn"}, {"weight_scales": "minmax"}),
    "weights of least error": ("quantized", {"weight_scales": "mse"}, {"weight_scales": "mse"}),
    "a static scheme": (
        "quantized", {"recipe": "gemm"},
        {"activation_ranges": "static", "group": None, "weight_scales": "minmax", "smoothed": [],
         "cross_cache": "float"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind, written, read", FIRST_VERSIONS.values(), ids=FIRST_VERSIONS)
def test_an_earlier_version_is_read_as_todays(kind, written, read):
    before = json.dumps(written)
    found = in_todays_form(kind, written)
    assert {key: found[key] for key in read} == read and json.dumps(written) == before
    assert not {"mode", "bits"} & found.keys()  # what no earlier version meant is not made up


def test_a_key_that_stands_for_nothing_is_missing_still(tmp_path):
    with artifact.create(tmp_path / "quantized", "quantized", "quantize", {}, {}) as draft:
        draft.results["recipe"] = "gemm"
    results = artifact.load(tmp_path / "quantized", "quantized").results
    assert results["group"] is None
    with pytest.raises(InputError, match=r"manifest.json is damaged: results.weight_bits is missing"):
        results["weight_bits"]


def test_every_kind_has_a_noun_with_its_article():
    assert NOUNS.keys() == RESULTS.keys()
    for one in filter(lambda noun: noun.startswith(("a ", "an ")), NOUNS.values()):
        article, word = one.split()[:2]
        assert (article == "an") == (word[0] in "aeiou"), one


def test_all_that_commands_write_is_declared():
    with tarfile.open(ARCHIVE) as archive:
        names = [name for name in archive.getnames() if name.endswith("/manifest.json")]
        manifests = [json.load(archive.extractfile(name)) for name in names]
    assert len(manifests) > 13
    for manifest in manifests:
        unknown = manifest["results"].keys() - fields(RESULTS[manifest["kind"]]).keys()
        assert unknown <= {"figures"}, (manifest["kind"], unknown)


LINES = {
    "a misspelt key": ('load(here, "evaluation").results["wier"]', 'TypedDict "Evaluation" has no key "wier"'),
    "a set's": ('load(here, "scores").results["sets"]["a"]["cers"]', 'TypedDict "SetScores" has no key "cers"'),
    "Python's function": ('wq.load("x", "onnx").results["byte"]', 'TypedDict "Onnx" has no key "byte"'),
    "another kind's": ('load(here, "calibration").results["recipe"]', 'TypedDict "Calibration" has no key "recipe"'),
    "a wrong use": ('load(here, "quantized").results["kept_worst"] + 1', "No overload variant of"),
    "mixed precision's": ('load(here, "quantized").results["mode"]', 'TypedDict "Quantized" has no key "mode"'),
}


def test_a_type_checker_finds_what_readers_get_wrong(tmp_path):
    pytest.importorskip("mypy")
    head = "from pathlib import Path\nimport whisperq as wq\nfrom whisperq.artifact import load\nhere = Path()\n"
    right = 'load(here, "evaluation").results["sets"]["a"]["wer"]\nload(here).results["whatever"]\n'
    (tmp_path / "reader.py").write_text(head + right + "".join(f"{line}\n" for line, _ in LINES.values()))
    flags = ["--follow-imports=silent", "--no-error-summary", "--cache-dir", str(tmp_path / "cache")]
    done = subprocess.run([sys.executable, "-m", "mypy", *flags, "reader.py"], cwd=tmp_path, capture_output=True)
    found = [line for line in done.stdout.decode().splitlines() if ": error:" in line]
    assert len(found) == len(LINES), found
    for number, (line, (_, words)) in enumerate(zip(found, LINES.values(), strict=True), start=7):
        assert line.startswith(f"reader.py:{number}: error: {words}")
