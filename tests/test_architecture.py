"""The guide's examples of what can be added, added as it says to a copy of the package, and used."""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "whisperq"
GUIDE = (ROOT / "examples" / "guide" / "architecture.md").read_text(encoding="utf-8")
FILE = re.compile(r"^`(whisperq/\S+\.py)`:\n\n```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
DIGITS = ROOT / "examples" / "digits"


def section(title: str) -> str:
    return next(part for part in GUIDE.split("\n## ") if part.startswith(title))


def add(title: str, house: Path) -> list[str]:
    """A section's files, written; their names."""
    files = FILE.findall(section(title))
    for name, code in files:
        assert not (house / name).exists()
        (house / name).write_text(code, encoding="utf-8")
    return [name for name, _ in files]


@pytest.fixture
def house(tmp_path) -> Path:
    """A copy of the package to be changed."""
    shutil.copytree(PACKAGE, tmp_path / "house" / "whisperq")  # compiled files too, which saves seconds
    return tmp_path / "house"


def run(house: Path, *words: str | Path) -> str:
    """Standard output of Python with these arguments, which imports the copy."""
    env = os.environ | {"PYTHONPATH": str(house), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, env=env, cwd=house)
    assert done.returncode == 0, done.stderr
    return done.stdout


STEEP = """
from whisperq.quant.observer import Observer


def estimate(seen, how, bits):
    return seen.counted().quantile(2.0**-bits), seen.counted().quantile(1 - 2.0**-bits)


OBSERVER = Observer(estimate, needs_histogram=True, per_bitwidth=True)
"""
ESTIMATOR = """
import sys, whisperq as wq
from whisperq.options import CalibrateConfig

model, data = sys.argv[1:]
try:
    CalibrateConfig(observer="average")
except wq.UsageError as error:
    print(error)
bits = (8, 6)
ranges = wq.calibrate(
    model, data=data, observer="median,minmax,steep", activation_bits=bits, batches=3, batch_size=2, out="ranges"
)
small = wq.quantize(model, ranges, observer="median", smooth="none", massive="none", cross_cache="float", out="small")
print(small.results["observer"], *ranges.results["observers"])
steep = wq.quantize(model, ranges, observer="steep", activation_bits=6, smooth=0.5, out="steep")
print(steep.results["observer"], steep.results["smoothed_observer"])
try:
    wq.quantize(model, ranges, observer="steep", activation_bits=7, out="none")
except wq.InputError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_range_estimator_is_one_file(house, teacher, digits):
    assert add("A range estimator: 1 file", house) == ["whisperq/quant/observers/median.py"]
    (house / "whisperq" / "quant" / "observers" / "steep.py").write_text(STEEP)  # another kind, for a number of bits
    choices, used, steep, refused = run(house, "-c", ESTIMATOR, teacher, digits / "validation.jsonl").splitlines()
    assert choices.endswith("must be one of ema, minmax, percentile, mse, stablequant, median, steep")
    assert used == "median median minmax steep" and steep == "steep minmax"  # a histogram cannot be scaled
    assert "ranges of steep for 8, 6 bits, not 7" in refused
    sites = json.loads((house / "ranges" / "ranges.json").read_text())["sites"]
    grids = json.loads((house / "small" / "qparams.json").read_text())["activations"]
    assert {len(site["minima"]) for site in sites.values()} == {3}
    told_apart = 0
    for address, grid in grids.items():
        site = sites[address]
        low, high = statistics.median(site["minima"]), statistics.median(site["maxima"])
        if "known" not in site:
            assert site["ranges"]["median"] == [low, high], address
            assert grid["scale"] == pytest.approx((max(high, 0) - min(low, 0)) / 255, rel=1e-5), address
            told_apart += [low, high] != site["ranges"]["minmax"]
            eight, six = (site["ranges"]["steep"][bits] for bits in ("8", "6"))
            assert min(site["minima"]) <= eight[0] <= six[0] < six[1] <= eight[1] <= max(site["maxima"]), address
    assert told_apart > 10


RUNTIME = """
import sys, whisperq as wq

model, audio = sys.argv[1:]
exported = wq.export(model, float=True, out="graphs")
print(wq.transcribe(audio, model=exported, runtime="reference"))
"""


@pytest.mark.slow
def test_a_runtime_is_a_file_and_an_entry(house):
    """ONNX's evaluator says the words that were spoken, of the embedded teacher's graphs."""
    pytest.importorskip("onnx")
    assert add("A runtime: 2 files", house) == ["whisperq/runtime/reference.py"]
    (entry,) = re.findall(r"^    RuntimeEntry\(.*\n", section("A runtime: 2 files"), re.MULTILINE)
    entries = house / "whisperq" / "runtimes.py"
    entries.write_text(entries.read_text().replace(")\nRUNTIMES = ", f"{entry})\nRUNTIMES = "))
    line = json.loads((DIGITS / "sample" / "test.jsonl").read_text().splitlines()[0])
    said = run(house, "-c", RUNTIME, DIGITS / "teacher", DIGITS / "sample" / line["audio_filepath"])
    assert said == line["text"] + "\n"


def test_a_subcommand_is_a_declaration_and_a_step(house, digits):
    assert add("A subcommand: 2 files", house) == ["whisperq/declared/lengths.py", "whisperq/steps/lengths.py"]
    lines = [json.loads(line) for line in (digits / "test.jsonl").read_text().splitlines()]
    words = ("-m", "whisperq", "lengths", "--data", digits / "test.jsonl", "--above", "1.5", "--json")
    planned = json.loads(run(house, *words, "--dry-run"))
    assert planned["writes"] == [{"what": "run/lengths", "state": "new", "refused": False}]
    made = json.loads(run(house, *words))
    assert made["kind"] == made["command"] == "lengths" and made["config"]["above"] == 1.5
    assert made["results"]["recordings"] == len(lines)
    assert made["results"]["long"] == sum(line["duration"] > 1.5 for line in lines)
    again = json.loads(run(house, *words, "--dry-run"))
    assert "by this very command; nothing would be done" in again["writes"][0]["state"]


def test_the_guide_names_what_there_is():
    """Files, and of a family's example each field of the entry."""
    from whisperq.models.families import Family

    added = {name.removeprefix("whisperq/") for name, _ in FILE.findall(GUIDE)}
    named = set(re.findall(r"`(?:whisperq/)?((?:\w+/)*\w+\.py)`", GUIDE)) - added
    assert len(named) > 25
    assert not [name for name in named if not ((PACKAGE / name).is_file() or (ROOT / name).is_file())]
    example = re.search(r"Family\(\n(.*?)^\)$", section("A family: 5 files"), re.DOTALL | re.MULTILINE)[1]
    given = set(re.findall(r"^    (\w+)=", example, re.MULTILINE))
    every = {f.name for f in fields(Family)}
    assert given <= every and every - given == {"recipes", "tied", "stock"}
    assert len(re.findall(r"^\| `models/", section("A family: 5 files"), re.MULTILINE)) == 5
