"""What a row of a report is the mean of, and when seeds and utterances are enough to say which row is better."""

import shutil

import numpy as np
import pytest
from support.reported import Transcribed, write_evaluation, write_quantized, write_teacher, write_training

from whisperq.report.error_tables import error_tables
from whisperq.report.gathering import gather
from whisperq.report.word_errors import mean_rate, measure


def eased(count: int) -> dict:
    """What quantize finds by itself, and says: so many sites scaled, and as many with massive channels."""
    sites = [f"enc.{i}.mlp_norm" for i in range(count)]
    ranges = {"observer": "minmax" if count else "ema", "smoothed_observer": "minmax" if count > 1 else None}
    massive = {site: {"channels": 4, "products": 0.01, "error_saved": 0.1} for site in sites}
    scaled = {site: {"alpha": 0.5, "error_before": 0.2, "error": 0.1} for site in sites if count > 1}
    return {
        "smooth": "auto",
        "smoothed": [*scaled],
        "scaled": scaled,
        "massive": massive,
        "extra_products": 0.0,
    } | ranges


def test_what_quantize_found_by_itself_parts_neither_seeds_nor_gates(tmp_path):
    """One model has fewer outliers than another; all were quantized by the same command."""
    teacher, runs = write_teacher(tmp_path / "teacher"), tmp_path / "runs"
    for gate, wrong in (("none", 20), ("headwise", 2)):
        for seed in range(3):
            run = runs / f"{gate}-{seed}"
            write_training(run, teacher, 3, gate, seed)
            model = write_quantized(run, "eased", eased(2 + seed if gate == "none" else seed))
            write_evaluation(run, model, "int8", [Transcribed("clean", wrong)], "int8")
    (table,) = [t for t in error_tables(measure(gather([runs], True), 0)) if t.stem == "table2"]
    assert {(r["gate"], r["numbers"], r["seeds"]) for r in table.records} == {
        (gate, "gemm W8A8", "0 1 2") for gate in ("none", "headwise")
    }
    assert [row[-1].bold for row in table.rows] == [False, True]


def test_seeds_of_mixed_precision_have_the_bits_that_were_asked_for(tmp_path):
    teacher, runs = write_teacher(tmp_path / "teacher"), tmp_path / "runs"
    for seed, mean in enumerate((3.46, 3.5, 3.49)):
        run, bits = runs / str(seed), {"mode": "one-stage", "target_bits": 3.5, "average_bits": mean}
        write_training(run, teacher, 3, "none", seed)
        write_evaluation(run, write_quantized(run, "mixed", bits, seed=seed), "int8", [Transcribed("clean", 2)], "int8")
    (table,) = error_tables(measure(gather([runs], True), 0))
    assert [(r["numbers"], r["seeds"]) for r in table.records] == [("mixed precision one-stage, 3.5 bits", "0 1 2")]


def test_what_quantize_was_told_to_ease_has_rows_of_its_own(tmp_path):
    write_training(run := tmp_path / "run", write_teacher(tmp_path / "teacher"), 3, "none")
    told = {
        "scaled": {"massive": "none"},
        "massive": {"smooth": "none"},
        "nothing": {"smooth": "none", "massive": "none"},
    }
    for name, settings in {"auto": {}, **told}.items():
        model = write_quantized(run, name, eased(2), **settings)
        write_evaluation(run, model, name, [Transcribed("clean", len(name))], "int8")
    (table,) = error_tables(measure(gather([run], True), 0))
    found = {r["numbers"].removeprefix("gemm W8A8"): round(1.2 * r["wer_percent"]) for r in table.records}
    both = ", no site scaled", ", no channel on 16 bits"
    assert found == {"": 4, both[0]: 7, both[1]: 6, "".join(both): 7}


def test_a_mean_over_sets_is_of_the_same_seeds_on_each(tmp_path):
    """INT8 errs as float does; its other seeds have not heard the second set yet, and they err more."""
    teacher = write_teacher(tmp_path / "teacher")
    for seed, wrong in enumerate((2, 10, 18)):
        run, sets = tmp_path / "runs" / str(seed), [Transcribed("clean", wrong), Transcribed("noisy", wrong)]
        write_training(run, teacher, 3, "none", seed)
        write_evaluation(run, run / "distilled", "float", sets, "float")
        write_evaluation(run, run / "quantized" / "gemm-w8a8", "int8", sets[: 1 if seed else 2], "int8")
    measured = measure(gather([tmp_path / "runs"], True), 0)
    rates, costs = error_tables(measured)
    assert [r["difference"] for r in costs.records] == [0]
    means = {r["numbers"]: (r["wer_percent"], r["seeds"]) for r in rates.records if "mean" in r["set"]}
    assert means == {"float": (pytest.approx(25 / 3), "0 1 2")}
    assert len(rates.records) == 5 and "mean" in rates.caption


def test_a_student_that_is_gone_parts_no_seeds(tmp_path):
    teacher, runs = write_teacher(tmp_path / "teacher"), tmp_path / "runs"
    for seed in range(3):
        write_training(runs / str(seed), teacher, 3, "none", seed)
        write_evaluation(runs / str(seed), runs / str(seed) / "distilled", "float", [Transcribed("clean", 2)], "float")
    shutil.rmtree(runs / "1" / "student")
    (table,) = error_tables(measure(gather([runs], True), 0))
    assert [record["seeds"] for record in table.records] == ["0 1 2"]


VARIANTS = {"gate_init": 0.25, "cross_gate": False, "copy_rule": "spread"}


@pytest.mark.parametrize("setting", VARIANTS)
def test_students_that_began_otherwise_are_no_seeds_of_one(setting, tmp_path):
    """Two seeds of each: what stands in one row is the mean of two, and of no more."""
    teacher, runs = write_teacher(tmp_path / "teacher"), tmp_path / "runs"
    for name, init, errors in (("usual", {}, (2, 4)), ("other", {setting: VARIANTS[setting]}, (10, 12))):
        for number, wrong in enumerate(errors):
            run = runs / name / str(number)
            write_training(run, teacher, 3, "headwise", number + (2 if init else 0), **init)
            write_evaluation(run, run / "distilled", "float", [Transcribed("clean", wrong)], "float")
    (table,) = error_tables(measure(gather([runs], True), 0))
    found = {record["seeds"]: record["wer_percent"] for record in table.records}
    assert found == {"0 1": pytest.approx(100 * 3 / 120), "2 3": pytest.approx(100 * 11 / 120)}


@pytest.mark.parametrize("utterances", [1, 12, 40])
def test_a_few_utterances_decide_nothing(utterances, tmp_path):
    """With eval --limit 1, say, one system has no error and the other has some: whatever is drawn, it is as far."""
    teacher, runs = write_teacher(tmp_path / "teacher"), tmp_path / "runs"
    for gate, wrong in (("none", utterances), ("headwise", 0)):
        write_training(runs / gate, teacher, 3, gate)
        for model, runtime, more in (("distilled", "float", 0), ("quantized/gemm-w8a8", "int8", utterances - wrong)):
            heard = [Transcribed("clean", wrong + more, utterances=utterances)]
            write_evaluation(runs / gate, runs / gate / model, runtime, heard, runtime)
    rates, costs = error_tables(measure(gather([runs], True), 0))
    bold = [cell for table in (rates, costs) for row in table.rows for cell in row if cell.bold]
    assert len(bold) == (2 if utterances == 40 else 0)
    assert {cell.note == "" for row in rates.rows for cell in row if cell.sources} == {utterances == 1}


@pytest.mark.parametrize("start, least, most", [(0, 0.99, 1.01), (20, 0.0, 0.2)])
def test_one_utterance_in_several_sets_is_drawn_once(start, least, most, tmp_path):
    """The same utterances in two rooms: where they err in the same ones, the mean knows no more than either set."""
    run = tmp_path / "run"
    write_training(run, write_teacher(tmp_path / "teacher"), 3, "none")
    sets = [Transcribed("clean", 20), Transcribed("noisy", 20, start=start)]
    write_evaluation(run, run / "distilled", "float", sets, "float")
    (clean,), (noisy,) = (rates.values() for rates in measure(gather([run], True), 0).values())
    mean = np.std(mean_rate([clean, noisy]).resampled)
    assert least < mean / np.std(clean.resampled) < most
