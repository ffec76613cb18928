"""outliers --massive on a model in which massive values are planted; what is shown of old artifacts and of none."""

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import soundfile
import torch
from conftest import run_command, sample_lines, write_lines
from support.reported import create, write_outliers, write_teacher, write_training
from transformers import WhisperForConditionalGeneration

from whisperq import artifact
from whisperq.models.loading import load_processor
from whisperq.report.gathering import gather
from whisperq.report.massive import massive_figure
from whisperq.report.outlier_tables import outlier_tables
from whisperq.report.tables import tables

FRAME, FRAME_CHANNEL = 190, 7  # of 200 frames in a window of 4 s: in the padding of every digit
TOKEN, TOKEN_CHANNEL = 1, 5  # <|en|>
SIZE = 2000.0
BLOCK = ("attn_norm", "q_proj", "k_proj", "v_proj", "context", "out_proj", "attn_sum")


def plant(source: Path, folder: Path) -> Path:
    """A residual channel that is massive at one frame, and one at one token: positions are where they enter."""
    shutil.copytree(source, folder)
    model = WhisperForConditionalGeneration.from_pretrained(folder)
    with torch.no_grad():
        model.model.encoder.embed_positions.weight[FRAME, FRAME_CHANNEL] = SIZE
        model.model.decoder.embed_positions.weight[TOKEN, TOKEN_CHANNEL] = -SIZE
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def planted(teacher, tmp_path_factory) -> Path:
    return plant(teacher, tmp_path_factory.mktemp("planted") / "model")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """A list whose recordings and texts have many lengths, none of them the window's."""
    lines = [line for line in sample_lines("test", 12) if line["duration"] < FRAME / 50][:8]
    assert len({line["duration"] for line in lines}) > 4
    return write_lines(tmp_path_factory.mktemp("mixed") / "mixed.jsonl", lines)


def observe(model: Path, data: Path, out: Path, *flags: str | int) -> artifact.Artifact:
    result = run_command("outliers", "--model", model, "--test", f"d={data}", "--out", out, "--run", out.parent, *flags)
    assert result.exit_code == 0, result.output
    return artifact.load(out)


def statistics(found: artifact.Artifact) -> dict:
    return json.loads((found.path / "outliers.json").read_text())["model"]["statistics"]


@pytest.fixture(scope="module")
def atlas(planted, mixed, tmp_path_factory) -> artifact.Artifact:
    return observe(planted, mixed, tmp_path_factory.mktemp("atlas") / "a", "--massive", "--batch-size", 3)


@pytest.mark.slow
def test_a_planted_value_is_found_at_its_channel_row_and_role(atlas, planted, mixed):
    """transformers' own hidden states say how large it is."""
    found = statistics(atlas)
    for part, place, role in (("enc", (FRAME_CHANNEL, FRAME), "padding"), ("dec", (TOKEN_CHANNEL, TOKEN), "prompt")):
        peak = found[f"{part}.0.attn_sum"]["massive"]["peaks"][0]
        assert (peak["channel"], peak["position"], peak["role"]) == (*place, role)
        assert peak["massive"] and peak["massive_in"] == peak["largest_in"] == 8
        assert peak["times_median"] > 1000 and peak["times_deviation"] > 10
        assert (peak["value"] > 0) == (part == "enc")
    assert found["dec.0.attn_sum"]["massive"]["peaks"][0]["token"] == "<|en|>"
    expected = hidden_states(planted, mixed)
    value = found["enc.1.mlp_sum"]["massive"]["peaks"][0]["value"]
    assert value == pytest.approx(max(expected, key=abs), rel=1e-4)


@torch.inference_mode()
def hidden_states(model: Path, data: Path) -> list[float]:
    """The largest value of each utterance behind the second encoder layer."""
    whisper, extractor, found = (
        WhisperForConditionalGeneration.from_pretrained(model), load_processor(model).feature_extractor, [],
    )  # fmt: skip
    for line in map(json.loads, data.read_text().splitlines()):
        audio, rate = soundfile.read(line["audio_filepath"], dtype="float32")
        features = extractor(audio, sampling_rate=rate, return_tensors="pt").input_features
        states = whisper.model.encoder(features, output_hidden_states=True).hidden_states
        found.append(float(states[2].flatten()[states[2].abs().argmax()]))
    return found


def test_every_site_of_the_blocks_that_has_channels_is_looked_at(atlas):
    encoder = [f"enc.{i}.{c}" for i in range(4) for c in (*BLOCK, "mlp_norm", "fc1", "fc2:input", "fc2", "mlp_sum")]
    assert [a for a in statistics(atlas) if a.startswith("enc.")] == encoder
    decoder = [f"dec.0.{c}" for c in (*BLOCK, *(f"cross.{c}" for c in BLOCK), "mlp_norm", "fc1", "fc2:input", "fc2")]
    assert [a for a in statistics(atlas) if a.startswith("dec.0.")] == [*decoder, "dec.0.mlp_sum"]
    for address, site in statistics(atlas).items():
        keys_of_encoder = address.endswith(("cross.k_proj", "cross.v_proj"))
        frames = address.startswith("enc.") or keys_of_encoder
        assert list(site["roles"]) == (["speech", "padding"] if frames else ["prompt", "tokens"]), address
        assert sum(role["values"] for role in site["roles"].values()) == site["values"], address


def test_recordings_of_many_lengths_one_by_one_are_the_same(planted, mixed, atlas, tmp_path):
    flags = ("--massive", "--batch-size", 1, "--layer", "enc.*.fc2:input,dec.*.mlp_sum,dec.1.cross.k_proj")
    single = statistics(observe(planted, mixed, tmp_path / "one", *flags))
    assert len(single) == 8
    for address, other in single.items():
        site = statistics(atlas)[address]
        for role, figures in site["roles"].items():
            for key in ("kurtosis", "inf_norm", "peak", "values", "utterances"):
                assert other["roles"][role][key] == pytest.approx(figures[key], rel=1e-3), (address, role, key)
        assert other["massive"]["peaks"][0]["value"] == pytest.approx(site["massive"]["peaks"][0]["value"], rel=1e-3)
        assert other["massive"]["median"] == pytest.approx(site["massive"]["median"], rel=1e-3)


def test_without_massive_values_it_says_so(teacher, mixed, tmp_path):
    flags = ("--massive", "--limit", 2, "--layer", "enc.*.mlp_sum,dec.*.attn_sum")
    found = observe(teacher, mixed, tmp_path / "none", *flags)
    (results,) = found.results["massive"].values()
    assert results["massive_sites"] == results["massive_channels"] == 0 and len(results["largest"]) == 5
    assert not any(p["massive"] for s in statistics(found).values() for p in s["massive"]["peaks"])
    assert any("none at 7 sites" in str(t.title) for t in tables(found))


def test_the_table_names_site_channel_place_and_token(atlas, planted, mixed, tmp_path):
    shown = next(t for t in tables(atlas) if str(t.title).startswith("Massive values of model"))
    rows = list(zip(*(map(str, column.cells) for column in shown.columns), strict=True))
    row = next(row for row in rows if row[0] == "dec.0.attn_sum")
    assert row[1] == "5" and row[3:6] == ("prompt", "1", "<|en|>") and row[-2:] == ("8 of 8", "8 of 8")
    summary = tables(atlas)[0]
    assert list(map(str, summary.columns[1].cells)) == ["all", "speech", "padding", "prompt", "tokens"]
    assert "massive.png" in atlas.results["figures"] and (atlas.path / "massive.svg").stat().st_size > 5000


def test_the_examples_script_writes_the_same_as_markdown(atlas, tmp_path):
    script = Path(__file__).parents[1] / "examples" / "whisper" / "atlas.py"
    done = subprocess.run([sys.executable, script, atlas.path, "--out", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text, site = (tmp_path / "atlas.md").read_text(), statistics(atlas)
    assert "| dec.0.attn_sum | 5 | -2" in text and (tmp_path / "model-atlas.png").read_bytes()[:4] == b"\x89PNG"
    prompts = [site[f"dec.{i}.mlp_sum"]["roles"]["prompt"]["kurtosis"] for i in range(3)]
    assert f"| dec.\\*.mlp_sum | prompt | {np.mean(prompts):.1f} |" in text


@pytest.mark.slow
def test_named_sites_alone_and_two_models(teacher, planted, mixed, tmp_path):
    flags = ("--massive", "--limit", 2, "--layer", "enc.conv1,enc.*.mlp_sum", "--compare", teacher)
    found = observe(planted, mixed, tmp_path / "two", *flags)
    assert found.results["model"]["sites"] == ["enc.conv1", *(f"enc.{i}.mlp_sum" for i in range(4))]
    with_planted, without = found.results["massive"].values()
    assert with_planted["massive_sites"] == 4 and without["massive_sites"] == 0
    assert statistics(found)["enc.conv1"]["massive"]["peaks"][0]["position"] < 400  # its stride is half


def test_old_artifacts_are_shown_and_their_command_is_done(teacher, mixed, tmp_path, monkeypatch):
    """As versions wrote them that knew no roles and no --massive."""
    monkeypatch.chdir(tmp_path)
    made = observe(teacher, mixed, tmp_path / "old", "--layer", "dec.1.out_proj", "--limit", 2)
    old = json.loads((made.path / "manifest.json").read_text())
    assert old["config"].pop("massive") is None
    assert list(old["results"]["model"].pop("roles")) == ["prompt", "tokens"]
    (made.path / "manifest.json").write_text(json.dumps(old))
    result = run_command("show", made.path)
    assert result.exit_code == 0 and "dec.1.out_proj" in result.output and "prompt" not in result.output
    again = ("outliers", "--model", teacher, "--test", f"d={mixed}", "--layer", "dec.1.out_proj", "--limit", 2)
    for flags in ((), ("--dry-run",)):
        result = run_command(*again, "--out", made.path, "--run", tmp_path, *flags)
        assert result.exit_code == 0 and "by this very command" in " ".join(result.output.split()), result.output


def test_in_a_report_the_blocks_stand_apart_from_attention_outputs(tmp_path):
    run, data = tmp_path / "run", write_lines(tmp_path / "test.jsonl", [])
    write_training(run, write_teacher(tmp_path / "teacher"), 3, "none")
    place = write_outliers(run, 4.0, data)
    inputs = {"model": run / "distilled", "data": data}
    with create(place.parent / "blocks", "outliers", "outliers", inputs, 0, massive=True) as draft:
        draft.results |= artifact.load(place).results
    grids = outlier_tables(gather([run], False))
    assert [grid.title.split(", ")[-1] for grid in grids] == ["attention outputs", "blocks"]
    assert all(len(grid.rows) == 1 for grid in grids)


def _site(**peaks: tuple[int, float, bool]) -> dict:
    found = [
        {"role": role, "channel": channel, "value": value, "massive": massive}
        for role, (channel, value, massive) in peaks.items()
    ]
    return {"massive": {"median": 0.2, "peaks": sorted(found, key=lambda peak: -abs(peak["value"]))}}


def test_the_figure_marks_each_role_and_numbers_of_massive_channels_do_not_overlap():
    quiet = {"speech": (3, 9.0, False), "padding": (8, -4.0, False)}
    encoder = {f"enc.{i}.{c}": _site(**quiet) for i in range(6) for c in (*BLOCK, "fc1", "fc2", "mlp_sum")}
    loud = [f"enc.{i}.{c}" for i in (3, 4) for c in ("fc1", "fc2", "mlp_sum")]
    encoder |= {a: _site(speech=(3, 9.0, False), padding=(1000 + n, 500.0, True)) for n, a in enumerate(loud)}
    decoder = {f"dec.{i}.{c}": _site(prompt=(2, 150.0, i == 1), tokens=(1, 3.0, False)) for i in (0, 1) for c in BLOCK}
    figure = massive_figure({"model": encoder | decoder})
    upper, lower = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["encoder", "decoder"]
    assert upper.get_ylim() == lower.get_ylim() and upper.get_yscale() == "log"
    drawn = np.concatenate([c.get_offsets() for c in upper.collections])
    assert sorted(drawn[:, 1]) == sorted([9.0] * 60 + [4.0] * 54 + [500.0] * 6)
    figure.canvas.draw()
    for axes, numbers in ((upper, {str(1000 + n) for n in range(6)}), (lower, {"2"})):
        labels = [t for t in axes.texts if t.get_text() in numbers and t.get_fontsize() == 6.5]
        assert {t.get_text() for t in labels} == numbers
        boxes = [matplotlib.text.Text.get_window_extent(t) for t in labels]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_where_probability_goes_is_counted_from_what_is_drawn(planted, mixed, tmp_path):
    for layer, roles in {"enc.0": ["speech", "padding"], "dec.1": ["prompt", "tokens"]}.items():
        flags = ("--model", planted, "--test", f"d={mixed}", "--layer", layer, "--head", "all")
        result = run_command("plot-attention", *flags, "--out", tmp_path / layer, "--run", tmp_path)
        assert result.exit_code == 0, result.output
        found = artifact.load(tmp_path / layer)
        probs = np.load(found.path / "attention.npz")["probs"]
        seconds = json.loads(mixed.read_text().splitlines()[0])["duration"]
        end = 4 if layer == "dec.1" else int(np.ceil(seconds * 50 - 1e-6))
        for head, shares in found.results["shares"].items():
            assert list(shares) == roles and list(shares[roles[1]]) == roles
            expected = float(probs[int(head), end:, :end].sum(-1).mean())
            assert shares[roles[1]][roles[0]] == pytest.approx(expected, rel=1e-4)
            assert sum(shares[roles[0]].values()) == pytest.approx(1, rel=1e-4)
        assert f"head 1, from {roles[1]}" in [str(c) for c in tables(found)[0].columns[0].cells]
        svg = next(found.path.glob("*.svg")).read_text()
        assert f"from {roles[1]} " in svg and "dashed line" in svg
