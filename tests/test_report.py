"""`whisperq report`: the tables' numbers, what is bold, what is broken, against direct computations."""

import csv
import html
import json
import re
import shutil
import xml.etree.ElementTree as xml
from functools import partial, reduce
from pathlib import Path

import jiwer
import numpy as np
import pytest
from conftest import run_command
from scipy import stats
from support.reported import Transcribed, write_evaluation, write_grid, write_outliers, write_teacher, write_training

from whisperq.config import Source
from whisperq.data.sources import read_all
from whisperq.report.error_tables import cost_table, error_tables, rate_table
from whisperq.report.gathering import gather
from whisperq.report.lineage import Lineage, state_of
from whisperq.report.lineage_commands import command_line
from whisperq.report.outlier_tables import outlier_tables
from whisperq.report.pareto import front
from whisperq.report.sifting import made_of_the_sound
from whisperq.report.speed_tables import speed_table, speeds
from whisperq.report.training_curves import kurtosis_growth, kurtosis_series
from whisperq.report.word_errors import measure
from whisperq.scoring.two_way_bootstrap import interval_95, resample_blocks, resample_seeds, t_interval
from whisperq.steps.report import assemble


@pytest.fixture(scope="module")
def grid(tmp_path_factory) -> Path:
    """Three seeds; do not write into it."""
    return write_grid(tmp_path_factory.mktemp("grid"), seeds=(0, 1, 2))


def records(table) -> dict[tuple[str, str, str], dict]:
    return {(r["set"], r["gate"], r["numbers"]): r for r in table.records}


def test_one_runs_interval_is_the_bootstraps_of_scipy():
    generator = np.random.default_rng(0)
    words, errors = generator.integers(3, 12, 300), generator.poisson(0.6, 300)
    mine = interval_95(resample_blocks(errors[None], words, seed=1, resamples=4000)[:, 0])
    data, ratio = (errors, words), lambda e, w, axis: 100 * e.sum(axis=axis) / w.sum(axis=axis)
    theirs = stats.bootstrap(data, ratio, paired=True, n_resamples=4000, method="percentile", rng=2)
    assert mine == pytest.approx(tuple(theirs.confidence_interval), abs=0.15)


def test_equal_runs_differ_by_nothing_and_draws_are_shared():
    errors = np.random.default_rng(0).poisson(0.5, (1, 50))
    rates = resample_blocks(np.concatenate([errors, errors, errors + 1]), np.full(50, 10), seed=0)
    assert np.array_equal(rates[:, 0], rates[:, 1])
    assert rates[:, 2] - rates[:, 0] == pytest.approx(10)


def test_seeds_spread_as_the_standard_error_of_their_mean():
    values = np.array([4.0, 5.5, 3.0, 6.0, 5.0])
    resampled = resample_seeds(np.tile(values, (40_000, 1)), seed=0)
    assert resampled.mean() == pytest.approx(values.mean(), abs=0.02)
    stretched = stats.sem(values) * stats.t.ppf(0.975, 4) / stats.norm.ppf(0.975)
    assert resampled.std() == pytest.approx(stretched, rel=0.02)


@pytest.mark.parametrize("count", (2, 5, 31))
def test_the_interval_over_seeds_is_students(count):
    values = np.random.default_rng(count).normal(size=count)
    theirs = stats.t.interval(0.95, count - 1, np.mean(values), stats.sem(values))
    assert t_interval(values) == pytest.approx(theirs, rel=1e-3)
    assert t_interval(values[:1]) is None


@pytest.mark.slow
def test_rates_are_jiwers_and_means_are_unweighted(grid):
    (table,) = [t for t in error_tables(measure(gather([grid], True), 0)) if t.stem == "table2"]
    found = records(table)
    expected = 100 * jiwer.wer(*Transcribed("clean", 12).texts())
    row = found["clean (120 words)", "none", "float"]
    assert row["wer_percent"] == pytest.approx(expected) and row["low_95"] < expected < row["high_95"]
    assert row["group"] == "in-distribution (ID)" and row["seeds"] == "0 1 2"
    assert len(row["manifests"].split()) == 3
    sets = [found[f"{name} (120 words)", "headwise", "gemm W8A8"]["wer_percent"] for name in ("clean", "noisy")]
    mean = found["mean of clean, noisy", "headwise", "gemm W8A8"]
    assert mean["wer_percent"] == pytest.approx(np.mean(sets)) and mean["reference_words"] == 240


def test_bold_is_what_is_surely_better_and_nothing_else(tmp_path):
    runs = write_grid(tmp_path)
    table = rate_table(measured := measure(gather([runs], True), 0), ("basic", "jiwer"), "table2")
    gates = [column.lstrip("#") for column in table.columns].index("gate")
    for row in table.rows:
        assert row[-1].bold == (row[gates].text == "headwise"), [cell.text for cell in row]
    (costs,) = cost_table(measured, ("basic", "jiwer"), "costs")
    first = records(costs)["clean (120 words)", "none", "gemm W8A8"]
    assert first["difference"] == pytest.approx(100 * 4 / 120) and first["difference_low_95"] >= 0
    equal = tmp_path / "equal"
    for name in ("none-0", "headwise-0"):
        shutil.copytree(runs / name, equal / name)
        shutil.rmtree(equal / name / "eval")
        write_evaluation(
            equal / name, equal / name / "distilled", "distilled-float", [Transcribed("clean", 5)], "float"
        )
    (table,) = error_tables(measure(gather([equal], True), 0))
    assert len(table.rows) == 2 and not any(row[-1].bold for row in table.rows)


def test_results_under_different_normalisers_stand_in_different_tables(tmp_path):
    teacher = write_teacher(tmp_path / "teacher")
    for name in ("basic", "none"):
        write_evaluation(tmp_path / "run", teacher, name, [Transcribed("clean", 3, normalizer=name)], "float")
    tables = error_tables(measure(gather([tmp_path / "run"], True), 0))
    assert [t.title for t in tables] == [f"Table 2. Word error rates, normaliser {n}" for n in ("basic", "none")]
    assert [len(t.records) for t in tables] == [1, 1]


def test_a_list_that_changed_under_its_name_is_another_test_set(tmp_path):
    teacher = write_teacher(tmp_path / "teacher")
    for count in (20, 30):
        write_evaluation(tmp_path / "run", teacher, f"of-{count}", [Transcribed("clean", 3, utterances=count)], "float")
    (table,) = error_tables(measure(gather([tmp_path / "run"], True), 0))
    assert {r["set"] for r in table.records} == {"clean (60 words)", "clean (90 words)"}


def test_means_are_of_the_sets_that_systems_share(tmp_path):
    teacher = write_teacher(tmp_path / "teacher")
    sets = [Transcribed(name, wrong) for name, wrong in (("a", 1), ("b", 3), ("c", 5))]
    for name, runtime, some in (("all", "float", sets), ("two", "int8", sets[:2]), ("one", "emulated", sets[2:])):
        write_evaluation(tmp_path / "run", teacher, name, some, runtime)
    (table,) = [t for t in error_tables(measure(gather([tmp_path / "run"], True), 0)) if t.stem == "table2"]
    rates = {r["runtime"]: r["wer_percent"] for r in table.records if r["set"] == "mean of a, b"}
    assert rates == {"float": pytest.approx(100 * 2 / 120), "int8": pytest.approx(100 * 2 / 120)}
    assert not [r for r in table.records if r["set"] == "mean of a, b, c"]


def test_a_ctc_model_has_one_stack_of_layers(tmp_path):
    (folder := tmp_path / "wav2vec2").mkdir()
    (folder / "config.json").write_text('{"num_hidden_layers": 12}')
    write_evaluation(tmp_path / "run", folder, "float", [Transcribed("clean", 3)], "float")
    (table,) = error_tables(measure(gather([tmp_path / "run"], True), 0))
    assert table.columns[-1] == "#12 layers" and table.records[0]["name"] == "wav2vec2"


def test_outliers_have_intervals_over_seeds_and_are_bold_where_these_decide(grid):
    (table,) = outlier_tables(gather([grid], True))
    (none, gated) = table.rows
    low, high = stats.t.interval(0.95, 2, 11.0, stats.sem([10.0, 11.0, 12.0]))
    place = table.columns.index("#average kurtosis")
    assert none[place].text == "11.00" and none[place].note == f"{low:.2f}\u2013{high:.2f}"
    assert gated[place].text == "4.50" and gated[place].bold and not none[place].bold
    assert len(table.records) == 6


def test_size_and_speed_are_the_files_and_the_clocks(grid):
    (table,) = speed_table(speeds(gather([grid], True), 0))
    integer = next(r for r in table.records if r["runtime"] == "int8")
    assert integer["megabytes"] == 0.001 and integer["rtfx"] == pytest.approx(20)
    assert integer["rtfx_low_95"] == pytest.approx(20)


def test_the_front_is_what_nothing_beats():
    points = [tuple(p) for p in np.random.default_rng(0).random((40, 2)).tolist()]
    beaten = {p for p in points if any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)}
    assert front(points) == sorted(set(points) - beaten)


def damage(grid: Path, how: str) -> str:
    """What the lineage should say."""
    place = grid / "none-0" / "distilled"
    if how == "changed":
        (place / "manifest.json").write_text((place / "manifest.json").read_text() + "\n")
        return f"its model {place} has changed since"
    if how == "gone":
        shutil.rmtree(place)
        return f"its model {place} is gone"
    (place / "config.json").write_text((place / "config.json").read_text() + "\n")
    return "config.json has changed since it was written"


@pytest.mark.slow
@pytest.mark.parametrize("how", ("changed", "gone", "files"))
def test_a_broken_chain_is_seen_from_everything_behind_it(tmp_path, how):
    runs = write_grid(tmp_path)
    said = damage(runs, how)
    gathered = gather([runs], True)
    lineage = Lineage(gathered)
    broken = {e.name for e in gathered.entries if lineage.breaks(e)}
    behind = {"eval/distilled-float", "eval/gemm-w8a8-int8", "quantized/gemm-w8a8", "calibration"}
    assert {f"runs/none-0/{name}" for name in behind} <= broken
    assert not any(name.startswith("runs/headwise-0") or name.endswith("student") for name in broken)
    assert any(said in b for e in gathered.entries for b in lineage.breaks(e))


def test_a_run_folder_that_moved_is_whole(tmp_path):
    runs = write_grid(tmp_path)
    runs.rename(tmp_path / "elsewhere")
    gathered = gather([tmp_path / "elsewhere"], True)
    lineage = Lineage(gathered)
    assert not any(lineage.breaks(e) for e in gathered.entries)
    states = {link.state for e in gathered.entries for link in lineage.links(e)}
    assert "whole" in states and not states & {"changed", "gone"}


def test_a_list_is_whole_as_long_as_it_is_read_as_it_was(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text('{"audio_filepath": "a.wav", "text": "one", "duration": 1.0}\n')
    (tmp_path / "a.wav").write_bytes(b"")
    known = read_all((Source(path=str(path)),)).reference
    assert state_of("test clean", known["path"], known["sha256"]) == "whole"
    limited = read_all((Source(path=str(path), limit=1),)).reference
    assert state_of("test clean", limited["path"], limited["sha256"]) == "unlike"
    both = read_all((Source(path=str(path)), Source(path=str(path)))).reference
    assert state_of("data", both["path"], both["sha256"]) == "whole"
    assert state_of("data", f"{path} line 1", "") == "unchecked"
    path.unlink()
    assert state_of("test clean", known["path"], known["sha256"]) == "gone"


def test_the_command_line_says_what_was_unusual(grid):
    gathered = gather([grid], False)
    entries = {e.name: e for e in gathered.entries}
    teacher = f"--teacher {grid.parent / 'teacher'}"
    student = command_line(entries["runs/none-1/student"], gathered)
    assert student == f"whisperq init-student {teacher} --gate none --seed 1"
    assert command_line(entries["runs/none-0/calibration"], gathered) == "whisperq calibrate --model distilled"


def test_the_command_writes_everything_and_is_done_the_second_time(grid, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run_command("report", grid, "--out", "page")
    assert result.exit_code == 0, result.stderr
    out = tmp_path / "page"
    for name in ("table1", "table2", "costs", "speed"):
        with open(out / f"{name}.csv", newline="") as file:
            assert list(csv.DictReader(file)), name
    stems = {p.stem for p in (out / "figures").iterdir()}
    assert {"pareto-1", "kurtosis-training-1", "gates-1", "ranges-1-enc", "ranges-1-dec"} <= stems
    for stem in stems:
        assert (out / "figures" / f"{stem}.png").read_bytes()[1:4] == b"PNG"
        assert xml.parse(out / "figures" / f"{stem}.svg").getroot().tag.endswith("svg")
    manifests = re.findall(r"\]\(<(.+?manifest\.json)>\)", (out / "report.md").read_text())
    assert manifests and all((out / m).is_file() for m in manifests)
    assert all(not e["broken"] for e in json.loads((out / "lineage.json").read_text()))
    again = run_command("report", grid, "--out", "page")
    assert again.exit_code == 0 and "finished already" in again.stderr
    other = run_command("report", grid / "none-0", "--out", "page")
    assert other.exit_code == 2 and "--force" in other.stderr


def test_what_is_no_run_folder_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "there is no run folder" in (result := run_command("report", "nowhere")).stderr and result.exit_code == 3
    assert run_command("report", tmp_path).exit_code == 3
    (tmp_path / "runs").mkdir()
    (table := tmp_path / "runs" / "table.md").write_text("")  # which a shell's runs/* names, too
    result = run_command("report", tmp_path / "runs", table)
    assert f"table.md is a file; name run folders, or the folder that they are in: {tmp_path}/runs" in result.stderr


# What of one artifact is not as it must be: the artifact, where in its manifest, and the value there.
ODD = {
    "results that lack a key": ("eval/e", ("results",), {}),
    "a number for a name": ("eval/e", ("results", "device"), [1]),
    "seconds that are none": ("eval/e", ("results", "sets", "clean", "audio_seconds"), "long"),
    "an input without a hash": ("eval/e", ("inputs", "model"), {"path": "x"}),
    "a hash that is a list": ("eval/e", ("inputs", "model", "sha256"), ["a"]),
    "a setting of another type": ("quantized/gemm-w8a8", ("config", "exclude"), 5),
    "kurtosis in words": ("outliers/distilled/attention-outputs", ("results", "model", "kurtosis"), "much"),
    "no ranges": ("calibration", "ranges.json", "{}"),
    "a log that is no log": ("distilled", "metrics.jsonl", "[1, 2]\n"),
}


@pytest.fixture
def two(tmp_path, monkeypatch) -> Path:
    """The folder of two runs, good and odd, each with a training, an evaluation and outliers."""
    monkeypatch.chdir(tmp_path)
    (data := tmp_path / "test.jsonl").write_text("")
    for name, gate in (("good", "headwise"), ("odd", "none")):
        run = tmp_path / "runs" / name
        write_training(run, write_teacher(tmp_path / "teacher"), 3, gate)
        write_evaluation(run, run / "distilled", "e", [Transcribed("clean", 2)], "float")
        write_outliers(run, 4.0, data)
    return tmp_path / "runs"


def spoil(artifact: Path, where: str | tuple[str, ...], value: object) -> None:
    if isinstance(where, str):
        (artifact / where).write_text(value)
        return
    content = json.loads((artifact / "manifest.json").read_text())
    reduce(lambda inner, key: inner[key], where[:-1], content)[where[-1]] = value
    (artifact / "manifest.json").write_text(json.dumps(content))


@pytest.mark.slow
@pytest.mark.parametrize("name, where, value", ODD.values(), ids=ODD)
def test_an_odd_artifact_costs_the_page_nothing_else(two, name, where, value):
    spoil(two / "odd" / name, where, value)
    (out := two / "page").mkdir()
    whole = partial(assemble, ("title", ("runs",)), out, out, 0, rendered=False)
    shown = made_of_the_sound(gather([two], False), whole, (whole,))
    named = [path for path, _ in shown.gathered.unreadable]
    assert f"runs/odd/{name}" in named and all(path.startswith("runs/odd") for path in named)
    page, text = ((out / f"report.{kind}").read_text() for kind in ("html", "md"))
    assert all(f"runs/odd/{name}" in shown and "runs/good/eval/e" in shown for shown in (page, text))
    assert "headwise" in (out / "table2.csv").read_text()


@pytest.mark.slow
def test_the_command_names_what_is_odd(two):
    spoil(two / "odd/eval/e", ("results",), {})
    result = run_command("report", two)
    assert result.exit_code == 0 and "unexpected" not in result.stderr
    said = f"{two / 'odd/eval/e/manifest.json'} is damaged: results.runtime is missing"
    page = html.unescape(Path("report/report.html").read_text())
    assert said in " ".join(result.stderr.split()) and said in page
    assert {row["gate"] for row in csv.DictReader(Path("report/table2.csv").open())} == {"headwise"}


def test_a_fault_of_no_artifact_is_an_error(two):
    def fail(gathered):
        if len(gathered.entries) > 9:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        made_of_the_sound(gather([two], False), fail, (fail,))


def test_training_logs_every_block_and_every_head(finished_run):
    lines = (finished_run / "distilled" / "metrics.jsonl").read_text().splitlines()
    entry, *_, last = [e for e in map(json.loads, lines) if "kurtosis" in e]
    assert entry["step"] == 0 and "validation_wer" not in entry and "validation_wer" in last
    assert np.mean(list(entry["kurtosis_by_site"].values())) == pytest.approx(entry["kurtosis"])
    assert entry["gates"].keys() == entry["gates_by_head"].keys()
    for address, heads in entry["gates_by_head"].items():
        assert len(heads) == 2 and np.mean(heads) == pytest.approx(entry["gates"][address])
    groups = {"enc.*.out_proj", "enc.*.fc2:input", "enc.*.mlp_sum", "dec.*.out_proj", "dec.*.cross.out_proj",
              "dec.*.fc2:input", "dec.*.mlp_sum"}  # fmt: skip
    assert entry["outliers"].keys() == last["outliers"].keys() == groups
    for group, roles in entry["outliers"].items():
        rest = {"speech", "padding"} if group.startswith("enc") else {"prompt", "tokens"}
        assert roles.keys() == {"all"} | rest
        assert roles["all"]["values"] == sum(roles[role]["values"] for role in rest)
        assert 0 < max(roles[role]["max_inf_norm"] for role in rest)


def test_kurtosis_of_many_magnitudes_has_plain_numbers_at_its_axis():
    log = [{"step": s, "kurtosis": 3.0, "kurtosis_by_site": {"enc.0.out_proj": 3.0 * 10**s}} for s in (0, 1, 2)]
    figure = kurtosis_growth({"student": kurtosis_series(log)})
    figure.canvas.draw()
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert {"10", "100"} <= set(labels) and not any("$" in label for label in labels)
