"""Which row of a report's tables a result stands in, and with what it is compared."""

import io
import json
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import ttest_1samp
from support.reported import (
    Transcribed,
    create,
    write_evaluation,
    write_grid,
    write_model,
    write_outliers,
    write_quantized,
    write_sensitivity,
    write_teacher,
    write_training,
)

from whisperq.kinds import in_todays_form
from whisperq.report.distortion_tables import distorted, distortion_tables
from whisperq.report.divergence_by_bits import narrowing_figure, narrowings
from whisperq.report.error_tables import cost_table, error_tables
from whisperq.report.figure_list import draw
from whisperq.report.gathering import gather
from whisperq.report.outlier_tables import outlier_tables
from whisperq.report.pareto import Point, apart, pareto_figure, points
from whisperq.report.report_tables import manifest_link
from whisperq.report.speed_tables import speed_table, speeds
from whisperq.report.system_labels import Model, model_name
from whisperq.report.word_errors import Rate, System, mean_rate, measure
from whisperq.results.comparisons import comparison
from whisperq.results.scores import scores

RULE = ("basic", "jiwer")


@pytest.fixture
def run(tmp_path) -> Path:
    """One training with its calibration and gemm-w8a8."""
    write_training(tmp_path / "run", write_teacher(tmp_path / "teacher"), 3, "none")
    return tmp_path / "run"


def rows(run: Path) -> dict[str, float]:
    """What Table 2 has of each kind of numbers; of each there is one."""
    (table,) = [t for t in error_tables(measure(gather([run], True), 0)) if t.stem == "table2"]
    found = {r["numbers"]: r["wer_percent"] for r in table.records}
    assert len(found) == len(table.records) == len(speed_table(speeds(gather([run], True), 0))[0].records)
    return found


def test_each_quantization_has_its_own_row(run):
    write_quantized(run, "gemm-w8a8-by-percentile", {"observer": "percentile"}, observer="percentile")
    write_quantized(run, "gemm-w8a8-keep3", {"observer": "ema", "kept_worst": ["a", "b", "c"]}, keep_worst=3)
    write_quantized(run, "narrow", per_channel=False)
    write_quantized(run, "some", exclude=("enc.0.*",))
    write_quantized(run, "others", exclude=("enc.1.*",))
    models = sorted((run / "quantized").iterdir())
    for wrong, model in enumerate(models):
        write_evaluation(run, model, model.name, [Transcribed("clean", wrong)], "int8")
    found = rows(run)
    assert sorted(found.values()) == pytest.approx([100 * wrong / 120 for wrong in range(6)])
    kinds = ("percentile ranges", "3 worst parts float", "weights per tensor", "enc.0.* float", "enc.1.* float")
    assert set(found) == {"gemm W8A8", *(f"gemm W8A8, {kind}" for kind in kinds)}


def test_different_models_of_one_title_are_told_apart_by_their_folders(run, tmp_path):
    write_quantized(run, "again", {"bytes": 1001})
    for wrong, name in enumerate(("gemm-w8a8", "again")):
        write_evaluation(run, run / "quantized" / name, name, [Transcribed("clean", wrong)], "int8")
    assert rows(run) == {"gemm W8A8 (gemm-w8a8)": 0, "gemm W8A8 (again)": pytest.approx(100 / 120)}
    for wrong, place in enumerate(("one", "two")):
        model = write_teacher(tmp_path / "foreign" / place / "whisper")
        (model / "model.safetensors").write_bytes(bytes(wrong))
        write_evaluation(tmp_path / "foreign", model, place, [Transcribed("clean", wrong)], "float")
    (table,) = error_tables(measure(gather([tmp_path / "foreign"], True), 0))
    assert sorted(r["wer_percent"] for r in table.records) == pytest.approx([0, 100 / 120])
    assert all(f"/{place}/whisper)" in " ".join(r["name"] for r in table.records) for place in ("one", "two"))


def test_seeds_of_a_mean_over_sets_are_drawn_once(tmp_path):
    """The seeds err alike on both sets, so that the mean spreads as each set does and not by the root of two less."""
    teacher = write_teacher(tmp_path / "teacher")
    for seed, wrong in enumerate((2, 8, 14, 20)):
        run = tmp_path / "runs" / str(seed)
        write_training(run, teacher, 3, "none", seed)
        sets = [Transcribed("clean", wrong), Transcribed("noisy", wrong)]
        write_evaluation(run, run / "distilled", "float", sets, "float", seed)
    rates = [next(iter(r.values())) for r in measure(gather([tmp_path / "runs"], True), 0).values()]
    mean, each = np.std(mean_rate(rates).resampled), np.mean([np.std(r.resampled) for r in rates])
    assert 0.9 * each < mean < 1.02 * each


def test_two_seeds_decide_nothing_and_one_only_over_utterances():
    def of(seeds: int, points: float, blocks: int = 20) -> Rate:
        return Rate(points, np.full(100, points), (), tuple(range(seeds)), "utterance", blocks)

    assert of(1, 4.0).surely_below(of(1, 5.0)) and of(3, 4.0).surely_below(of(3, 5.0))
    assert not of(2, 4.0).surely_below(of(2, 5.0)) and not of(1, 4.0).surely_below(of(3, 5.0))
    assert not of(3, 4.0, 19).surely_below(of(3, 5.0, 19)), "as for compare, a few utterances decide nothing"


def test_costs_are_against_what_was_decoded_alike_on_the_same_device(run):
    write_evaluation(run, run / "distilled", "greedy", [Transcribed("clean", 2)], "float")
    write_evaluation(run, run / "distilled", "beams", [Transcribed("clean", 1)], "float", beams=5)
    write_evaluation(run, run / "quantized" / "gemm-w8a8", "int8", [Transcribed("clean", 6)], "int8")
    write_evaluation(run, run / "quantized" / "gemm-w8a8", "int8-beams", [Transcribed("clean", 4)], "int8", beams=5)
    write_evaluation(
        run, run / "quantized" / "gemm-w8a8", "small", [Transcribed("clean", 7)], "int8", reduce_range=True
    )
    measured = measure(gather([run], True), 0)
    (costs,) = cost_table(measured, RULE, "costs")
    found = {r["runtime"]: r["difference"] for r in costs.records}
    expected = {"int8": 4, "int8, beams 5": 3, "int8, reduce range True": 5}
    assert found == {runtime: pytest.approx(100 * more / 120) for runtime, more in expected.items()}
    (rates,) = [t for t in error_tables(measured) if t.stem == "table2"]
    assert "greedy decoding but where beams are named" in rates.caption


def said(out: Path, **changed: object) -> None:
    """Change what a manifest says: an evaluation's device in the results, all else in the settings."""
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["results"] |= {"device": changed.pop("device")} if "device" in changed else {}
    manifest["config"] |= changed
    (out / "manifest.json").write_text(json.dumps(manifest))


TOLD = {
    "dtype": ("bfloat16", "float, dtype bfloat16"),
    "language": ("de", "float, language de"),
    "language to be found out": (None, "float, language auto"),
    "task": ("translate", "float, task translate"),
}


@pytest.mark.parametrize("setting", TOLD)
def test_what_a_model_was_told_has_a_row_of_its_own(run, setting):
    value, runtime = TOLD[setting]
    write_evaluation(run, run / "distilled", "usual", [Transcribed("clean", 2)], "float")
    out = write_evaluation(run, run / "distilled", "zother", [Transcribed("clean", 9)], "float")
    said(out, **{setting.split()[0]: value})
    (rates,) = error_tables(measure(gather([run], False), 0))
    found = {r["runtime"]: r["wer_percent"] for r in rates.records}
    assert found == {"float": pytest.approx(100 * 2 / 120), runtime: pytest.approx(100 * 9 / 120)}
    assert {row["runtime"] for row in speed_table(speeds(gather([run], False), 0))[0].records} == {*found}


def test_the_same_once_more_is_left_out_and_named(run, capsys):
    for wrong, name in ((2, "a"), (9, "b")):
        write_evaluation(run, run / "distilled", name, [Transcribed("clean", wrong)], "float", batch_size=wrong)
    assert list(rows(run).values()) == [pytest.approx(100 * 9 / 120)]
    assert "clean of run/eval/a is left out: run/eval/b is the same again" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("setting", TOLD)
def test_outliers_and_outputs_are_compared_with_what_was_told_alike(setting, run, capsys):
    value, words = TOLD[setting]
    data = run / "test.jsonl"
    data.write_text('{"audio_filepath": "a.wav", "text": "one"}\n')
    for kurtosis, name in ((4.0, "usual"), (9.0, "zother")):
        write_sensitivity(run, run / "quantized" / "gemm-w8a8", data, kurtosis * 1e-3, 30.0)
        for place in (write_outliers(run, kurtosis, data), run / "sensitivity" / "gemm-w8a8"):
            if name == "zother":
                said(place, **{setting.split()[0]: value})
            place.rename(place.with_name(f"{place.name}-{name}"))
    gathered = gather([run], False)
    outliers, outputs = outlier_tables(gathered), distortion_tables(distorted(gathered))
    assert [[r["kurtosis"] for r in table.records] for table in outliers] == [[4.0], [9.0]]
    assert [[r["kl_nats"] for r in table.records] for table in outputs] == [[4e-3], [pytest.approx(9e-3)]]
    how = words.removeprefix("float, ")
    assert [how in table.caption for table in (*outliers, *outputs)] == [False, True, False, True]
    assert "left out" not in capsys.readouterr().err


def test_outliers_and_outputs_measured_once_more_are_named(run, capsys):
    data = run / "test.jsonl"
    data.write_text('{"audio_filepath": "a.wav", "text": "one"}\n')
    for number, name in enumerate("ab"):
        write_sensitivity(run, run / "quantized" / "gemm-w8a8", data, (1 + number) * 1e-3, 30.0)
        for place in (write_outliers(run, 4.0 + number, data), run / "sensitivity" / "gemm-w8a8"):
            place.rename(place.with_name(name))
    gathered = gather([run], False)
    ((outliers,), (outputs,)) = outlier_tables(gathered), distortion_tables(distorted(gathered))
    assert [r["kurtosis"] for r in outliers.records] == [5.0] and [r["kl_nats"] for r in outputs.records] == [0.002]
    words = " ".join(capsys.readouterr().err.split())
    assert "outliers of run/outliers/distilled/a are left out: run/outliers/distilled/b is the same again" in words
    assert "distortion of run/sensitivity/a is left out: run/sensitivity/b is the same again" in words


def test_rows_of_several_devices_say_which(run):
    for number, device in enumerate(("cpu", "cuda")):
        for model, runtime in (("distilled", "float"), ("quantized/gemm-w8a8", "int8")):
            sets = [Transcribed("clean", 2 + number)]
            out = write_evaluation(run, run / model, f"{device}-{runtime}", sets, runtime)
            if not number:
                (alone,) = [t for t in error_tables(measure(gather([run], False), 0)) if t.stem == "table2"]
                assert "device" not in alone.columns
            said(out, device=device)
    measured = measure(gather([run], False), 0)
    for table in error_tables(measured):
        place = table.columns.index("device")
        assert [row[place].text for row in table.rows] == [record["device"] for record in table.records]
        assert {row[place].text for row in table.rows} == {"cpu", "cuda"}
    ((title, some),) = points(measured, speeds(gather([run], False), 0))
    names = pareto_figure(title, some, "WER").axes[0].get_legend_handles_labels()[1]
    assert sum("float, cuda" in name for name in names) == sum("float, cpu" in name for name in names) == 1


def test_sets_without_spaces_have_tables_of_character_errors(run, monkeypatch):
    write_evaluation(run, run / "distilled", "english", [Transcribed("clean", 2)], "float")
    monkeypatch.setattr("support.reported.WORDS", list("\u96f6\u4e00\u4e8c\u4e09\u56db\u4e94\u516d\u4e03\u516b\u4e5d"))
    write_evaluation(run, run / "distilled", "chinese", [Transcribed("clean", 2)], "float")
    by_characters, by_words = error_tables(measure(gather([run], True), 0))
    assert by_words.title.startswith("Table 2. Word") and by_characters.title.startswith("Table 2. Character")
    (record,) = by_characters.records
    assert record["cer_percent"] == pytest.approx(100 * 2 * 5 / 120)  # "wrong" for one character of three, twice
    assert record["reference_characters"] == 120


def test_an_older_normalisers_rates_are_named(run, capsys):
    out = write_evaluation(run, run / "distilled", "float", [Transcribed("clean", 2)], "float")
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["results"]["sets"]["clean"]["wer"] = 0.25
    (out / "manifest.json").write_text(json.dumps(manifest))
    measure(gather([run], False), 0)
    assert "WER 1.67 %; it was 25.00 %" in " ".join(capsys.readouterr().err.split())


def test_a_map_that_is_gone_leaves_the_evaluation_out(run, capsys):
    out = write_evaluation(run, run / "distilled", "float", [Transcribed("clean", 2)], "float")
    manifest = out / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"basic"', '"english"'))
    assert measure(gather([run], False), 0) == {}
    assert "spelling map that is not there" in " ".join(capsys.readouterr().err.split())


def test_an_evaluation_that_had_no_map_stands_under_its_own_rule(run):
    out = write_evaluation(run, run / "distilled", "float", [Transcribed("clean", 2)], "float")
    manifest = out / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"basic"', '"english-without-spelling-map"'))
    ((found, rates),) = measure(gather([run], False), 0).items()
    assert found.normalizer == "english-without-spelling-map" and len(rates) == 1


def test_several_processes_speed_has_its_interval_around_it(run):
    write_evaluation(run, run / "distilled", "float", [Transcribed("clean", 2)], "float", processes=4)
    (found,) = speeds(gather([run], True), 0).values()
    assert found.rtfx == pytest.approx(80) and found.interval == pytest.approx((80, 80))


def test_speed_is_over_all_sets_also_of_several_evaluations(run):
    write_evaluation(run, run / "distilled", "a", [Transcribed("clean", 2)], "float")
    write_evaluation(run, run / "distilled", "b", [Transcribed("noisy", 2, utterances=120)], "float", processes=4)
    (found,) = speeds(gather([run], True), 0).values()
    assert found.rtfx == pytest.approx((40 + 120) * 2 / (40 * 0.1 + 120 * 0.1 / 4))
    assert [entry.path.name for entry in found.sources] == ["a", "b"]


def test_a_model_is_smaller_than_the_float_one_of_its_own_form(run):
    """Graphs hold weights twice: those of a float model say nothing of the folder that integers were made from."""
    for name, size in (("float", 9000), ("int8", 3000)):
        model = run / ("distilled" if name == "float" else "quantized/gemm-w8a8")
        with create(run / "onnx" / name, "onnx", "export", {"model": model}) as draft:
            write_model(draft.folder, 3, "none", size)
        write_evaluation(run, run / "onnx" / name, f"onnx-{name}", [Transcribed("clean", 2)], "onnx")
    write_evaluation(run, run / "quantized" / "gemm-w8a8", "int8", [Transcribed("clean", 2)], "int8")
    assert ratios(run) == {
        ("float", "onnx"): "",
        ("gemm W8A8", "onnx"): "3.00 times smaller",
        ("gemm W8A8", "int8"): "",
    }
    write_evaluation(run, run / "distilled", "float", [Transcribed("clean", 2)], "float")
    assert ratios(run)["gemm W8A8", "int8"] == "4.00 times smaller"
    assert ratios(run)["gemm W8A8", "onnx"] == "3.00 times smaller"


def ratios(run: Path) -> dict[tuple[str, str], str]:
    """Numbers and runtime -> what stands below the size."""
    (table,) = speed_table(speeds(gather([run], True), 0))
    return {(row[3].text, row[4].text): row[6].note for row in table.rows}


@pytest.mark.parametrize("wall, shown", [(0.5, "160"), (8.0, "10"), (60.0, "1.3"), (200.0, "0.4"), (2000.0, "0.04")])
def test_a_slow_runtimes_speed_is_not_zero(run, wall, shown):
    out = write_evaluation(run, run / "distilled", "float", [Transcribed("clean", 2)], "float")
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["results"]["sets"]["clean"]["wall_seconds"] = wall
    (out / "manifest.json").write_text(json.dumps(manifest))
    (table,) = speed_table(speeds(gather([run], False), 0))
    cell = table.rows[0][table.columns.index("#RTFx")]
    assert (cell.text, cell.note) == (shown, f"{shown}\u2013{shown}")


def test_a_size_that_is_not_known_is_a_dash_and_no_point(run):
    write_evaluation(run, run / "distilled", "float", [Transcribed("clean", 2)], "float")
    write_evaluation(run, run / "quantized" / "gemm-w8a8", "int8", [Transcribed("clean", 2)], "int8")
    (run / "distilled" / "model.safetensors").unlink()
    gathered = gather([run], True)
    found = speeds(gathered, 0)
    (table,) = speed_table(found)
    place = table.columns.index("#size")
    assert [row[place].text for row in table.rows] == ["-", "0.00 MB"]
    ((_, drawn),) = points(measure(gathered, 0), found)
    assert [p.system.model.numbers for p in drawn] == ["gemm W8A8"]
    (run / "quantized" / "gemm-w8a8" / "model.safetensors").unlink()
    assert points(measure(gathered, 0), speeds(gathered, 0)) == []


def test_links_and_printed_names_are_what_the_folders_are_called(tmp_path):
    odd = tmp_path / "50% #1"
    odd.mkdir()
    entry = gather([write_grid(odd)], False).entries[0]
    link = manifest_link(entry, tmp_path)
    assert "%25" in link and "%23" in link and (tmp_path / unquote(link)).is_file()
    console = Console(width=250, record=True, file=io.StringIO())
    numbers = {"wer": 0.5, "wer_interval_95": [0.4, 0.6], "normalizer": "basic"}
    average = {"normalizer": "basic", "scorer": "jiwer", "sets": ["[bold]noisy"]}
    found = in_todays_form("scores", {"sets": {"[bold]noisy": numbers}, "averages": [average]})
    for table in scores(found, "[/x] of mine"):
        console.print(table)
    figures = {"wer_a": 0.5, "wer_b": 0.5, "difference": 0.0, "interval_95": [-1, 1], "p": None, "verdict": "no worse"}
    counted = {"blocks": 30, "blocked_by": "speaker", "reference_words": 9, "enough_blocks": True, "enough_words": True}
    pairs = {"matched_pairs": {"segments": 9, "mean": 0.0, "z": 0.0, "p": 1.0}, "within_margin": False}
    one = figures | counted | pairs | {"normalizer": "basic", "scorer": "jiwer"}
    found = {"a": "[a]", "b": "[/b]", "margin": 0.3, "sets": {"[/y]": one}, "means": []}
    for table in comparison(in_todays_form("comparison", found)):
        console.print(table)
    shown = console.export_text()
    assert "[bold]noisy" in shown and "[/x] of mine" in shown
    assert "A [a], B [/b]" in shown and shown.count("[/y]") == 2


def test_a_model_of_the_hub_has_its_own_name(tmp_path):
    folder = tmp_path / "models--openai--whisper-tiny" / "snapshots" / "169d4a4341b33bc18d8881c4b69c2e104e1cc0af"
    write_evaluation(tmp_path / "run", write_teacher(folder), "float", [Transcribed("clean", 1)], "float")
    (table,) = error_tables(measure(gather([tmp_path / "run"], True), 0))
    assert table.records[0]["name"] == "openai/whisper-tiny"
    assert model_name(Path("/models/tiny")) == "tiny"


def quantized_seeds(tmp_path: Path, gate: str, kls: list[float], bits: int = 8) -> None:
    teacher, data = write_teacher(tmp_path / "teacher"), tmp_path / f"{gate}.jsonl"
    data.write_text("")  # the same list, wherever it lies
    for seed, kl in enumerate(kls):
        run = tmp_path / "runs" / gate / str(seed)
        if not (run / "distilled").exists():
            write_training(run, teacher, 3, gate, seed)
        model = write_quantized(run, f"a{bits}", {"activation_bits": bits, "bytes": 1000 + bits}, activation_bits=bits)
        write_sensitivity(run, model, data, kl, 30.0, seed)


def test_distortion_is_a_geometric_mean_of_seeds_and_its_least_is_bold(tmp_path):
    quantized_seeds(tmp_path, "none", [1e-3, 2e-3, 4e-3])
    quantized_seeds(tmp_path, "headwise", [0.5e-3, 0.9e-3, 2.1e-3])
    (table,) = distortion_tables(distorted(gather([tmp_path / "runs"], True)))
    (plain, gated) = table.rows
    assert [cell.text for cell in plain] == ["student", "3 + 2", "none", "gemm W8A8", "2", "30.0"]
    low, high = ttest_1samp(np.log([1.0, 2.0, 4.0]), 0).confidence_interval(0.95)
    assert plain[4].note == f"{np.exp(low):.3g}\u2013{np.exp(high):.3g}" and not plain[4].bold
    assert gated[4].bold and len(gated[4].sources) == 3 and len(table.records) == 6
    quantized_seeds(tmp_path / "two", "none", [1e-3, 2e-3])
    quantized_seeds(tmp_path / "two", "headwise", [0.5e-3, 2.1e-3])
    (table,) = distortion_tables(distorted(gather([tmp_path / "two" / "runs"], True)))
    assert not any(row[4].bold for row in table.rows)


def test_distortions_of_models_with_one_title_stand_apart(run, tmp_path):
    (data := tmp_path / "data.jsonl").write_text("")
    for number, name in enumerate(("first", "second")):
        model = write_quantized(run, name, {"bytes": 1001 + number})
        write_sensitivity(run, model, data, (1 + number) * 1e-3, 30.0)
    (table,) = distortion_tables(distorted(gather([run], True)))
    shown = {
        row[table.columns.index("quantized")].text: row[table.columns.index("#KL (mnat)")].text for row in table.rows
    }
    assert shown == {"gemm W8A8 (first)": "1", "gemm W8A8 (second)": "2"}


def test_a_line_of_distortion_is_over_the_same_tokens(run, tmp_path):
    for bits, text in ((8, ""), (6, ""), (5, " ")):
        (data := tmp_path / f"{bits}.jsonl").write_text(text)
        model = write_quantized(run, f"a{bits}", {"activation_bits": bits, "bytes": bits}, activation_bits=bits)
        write_sensitivity(run, model, data, 1 / bits, 30.0)
    (out := tmp_path / "page").mkdir()
    gathered = gather([run], True)
    drawn = [f for f in draw(gathered, {}, {}, distorted(gathered), out) if f.section == "distortion"]
    assert [sorted(e.path.name for e in figure.sources) for figure in drawn] == [["a6", "a8"]]
    assert "over 100 tokens" in drawn[0].caption


def test_more_points_than_a_figure_shows_are_divided_by_origin():
    models = [Model(name, "", layers, 2, "none") for name in ("one", "two") for layers in range(20)]
    some = [Point(System(model, "float", "cpu"), 1.0, 2.0, 3.0, (2.0, 4.0)) for model in models]
    assert apart("all", some[:24]) == [("all", some[:24])] and apart("all", []) == []
    assert apart("all", some) == [("one; all", some[:20]), ("two; all", some[20:])]


def test_a_line_of_distortion_has_several_widths(tmp_path):
    for bits, kl in ((8, 1e-4), (5, 1e-2)):
        quantized_seeds(tmp_path, "headwise", [kl, 2 * kl], bits)
        quantized_seeds(tmp_path, "none", [kl], bits)
    quantized_seeds(tmp_path / "narrow", "none", [1e-4])
    found = distorted(gather([tmp_path / "runs"], True))
    assert narrowings(distorted(gather([tmp_path / "narrow" / "runs"], True))) == {}
    ((title, panels),) = narrowings(found).items()
    assert (
        title == "student, 3 + 2 layers" and [*panels] == ["gemm W8"] and [*panels["gemm W8"]] == ["none", "headwise"]
    )
    (axes,) = narrowing_figure(title, panels).axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert lines["gate headwise, 2 seeds"].get_ydata() == pytest.approx([2**0.5 * 1e-2, 2**0.5 * 1e-4])
    assert axes.get_yscale() == "log" and [t.get_text() for t in axes.get_xticklabels()] == ["A5", "A8"]
