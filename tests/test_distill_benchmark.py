"""The training benchmark: both contenders do the same work, the operations are counted right, its files are whole."""

import json
import math
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from whisperq.models.gated_whisper import GatedWhisperConfig, GatedWhisperForConditionalGeneration
from whisperq.training.loop import Distiller
from whisperq.training_options import DistillConfig

BENCHMARKS = Path(__file__).parents[1] / "examples" / "benchmarks"
SCRIPT = BENCHMARKS / "distill.py"
sys.path.append(str(BENCHMARKS))

import training_worker  # noqa: E402
from trainer_peer import Windows, distillation_loss  # noqa: E402
from training_shapes import PAIRS, Macs, macs, step_flops, window_tokens  # noqa: E402

pytestmark = pytest.mark.slow

TINY = PAIRS["tiny"]
TASK = {"batch": 4, "micro": 2, "dtype": "float32"}


def models():
    sizes = ((TINY.student, "headwise"), (TINY.teacher, "none"))
    return [training_worker.random_model(TINY, *size, "cpu", seed) for seed, size in enumerate(sizes)]


def test_ours_and_plain_torch_give_the_same_loss_and_gradient() -> None:
    config = DistillConfig(max_steps=1)
    ours = training_worker.train_ours(*models(), TINY, TASK, config, lambda: None)
    student, teacher = models()
    windows, tokens, whole = Windows(TINY, 4, 4, "cpu"), sum(window_tokens(TINY, i) for i in range(4)), 0.0
    for rows in ((0, 1), (2, 3)):
        batch = windows.collate([windows[i] for i in rows])
        labels = batch.pop("labels")
        with torch.no_grad():
            taught = teacher(**batch).logits
        loss = distillation_loss(student(**batch).logits, taught, labels, config.kl_weight) / tokens
        loss.backward()
        whole += loss.item()
    trained = [p for name, p in student.named_parameters() if name != "model.encoder.embed_positions.weight"]
    norm = torch.nn.utils.clip_grad_norm_(trained, math.inf).item()
    assert ours["loss"] == pytest.approx(whole, rel=1e-5)
    assert ours["gradient_norm"] == pytest.approx(norm, rel=1e-4)


def counted(pair, layers: tuple[int, int], gate: str, tokens: int) -> tuple[Macs, int]:
    """Ours, and what torch's counter sees of a whole forward pass; its operations are two to a MAC."""
    config = GatedWhisperConfig(**pair.config(layers, gate))
    config._attn_implementation = "eager"  # the counter does not know the CPU's fused attention
    model = GatedWhisperForConditionalGeneration(config).eval()
    features = torch.zeros(1, config.num_mel_bins, 2 * config.max_source_positions)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_features=features, decoder_input_ids=torch.zeros(1, tokens, dtype=torch.long), use_cache=False)
    return macs(pair, layers, gate == "headwise", tokens), counter.get_total_flops()


@pytest.mark.parametrize("size", ["tiny", "digits"])
@pytest.mark.parametrize("gate", ["headwise", "none"])
def test_the_formula_counts_what_torch_counts(size: str, gate: str) -> None:
    formula, flops = counted(PAIRS[size], PAIRS[size].student, gate, 40)
    assert 2 * formula.total == pytest.approx(flops, rel=0.01)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_step_counts_what_torch_counts_forward_and_backward(frozen: bool) -> None:
    """One window, so that none is padded; the first convolution's input needs no gradient, which is not subtracted."""
    pair, config = PAIRS["digits"], DistillConfig(max_steps=1, freeze_encoder=frozen)
    student, teacher = (
        training_worker.random_model(pair, layers, gate, "cpu", 0)
        for layers, gate in ((pair.student, "headwise"), (pair.teacher, "none"))
    )
    distiller = Distiller(student, teacher, config, torch.float32, seed=0)
    features = training_worker.random_features(pair, 1)
    batches = training_worker.own_batches(pair, {"batch": 1, "micro": 1}, features, 0)
    with FlopCounterMode(display=False) as counter:
        distiller.step(0, batches)
    assert step_flops(pair, [window_tokens(pair, 0)], frozen) == pytest.approx(counter.get_total_flops(), rel=0.02)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The results' folder of one round of the smallest size, its batch in two micro-batches."""
    folder = tmp_path_factory.mktemp("distill-benchmark")
    command = [sys.executable, SCRIPT, "--sizes", "tiny", "--rounds", "1", "--steps", "2", "--warmup", "1"]
    command += ["--batch", "4", "--micro", "2", "--matrix", "128", "--threads", "1", "--device", "cpu"]
    command += ["--dtype", "float32", "--out", folder]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SCRIPT.parents[2]), *sys.path])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_contender_is_measured_and_the_table_says_so(finished: Path) -> None:
    results = json.loads((finished / "distill.json").read_text())
    entry, markdown = results["sizes"]["tiny"], (finished / "distill.md").read_text()
    expected = ["whisperq"] + ["trainer"] * bool(find_spec("accelerate"))
    assert list(entry["contenders"]) == expected and not results["failed"]
    assert list(results["left_out"]) == ["trainer"] * ("trainer" not in expected)
    assert (results["device"], results["dtype"], results["threads"]) == ("cpu", "float32", 1)
    for contender in entry["contenders"].values():
        (only,) = contender["rounds"]
        assert len(only["step_s"]) == 2 and sum(only["step_s"]) <= only["seconds"]
        assert only["peak_bytes"] > 0 and only["imports_bytes"] > 0 and contender["micro"] == 2
    timed = [window_tokens(TINY, i) for i in range(4, 12)]
    assert 2 * entry["contenders"]["whisperq"]["flops_per_step"] == step_flops(TINY, timed)
    assert len(entry["matrix_flops_per_s"]) == 1 and entry["matrix_flops_per_s"][0] > 0
    assert set(entry["feeding"]["decode_core_s"]) == {"Opus", "FLAC"} and entry["feeding"]["log_mel_s"] > 0
    assert "Feeding 4 x 1 s takes" in markdown and "two 128 x 128 matrices" in markdown and "| whisperq |" in markdown
    for name, why in results["left_out"].items():
        assert f"- {name}: {why}" in markdown


@pytest.mark.skipif(not find_spec("accelerate"), reason="transformers' Trainer needs accelerate")
def test_the_trainers_first_step_is_ours(finished: Path) -> None:
    contenders = json.loads((finished / "distill.json").read_text())["sizes"]["tiny"]["contenders"]
    ours, theirs = (contenders[name]["rounds"][0]["first"] for name in ("whisperq", "trainer"))
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    assert ours["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=1e-4)
    assert "| whisperq to trainer |" in (finished / "distill.md").read_text()


def test_a_micro_batch_that_does_not_divide_the_batch_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, "--sizes", "tiny", "--batch", "4", "--micro", "3", "--out", tmp_path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SCRIPT.parents[2]), *sys.path])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and "a micro-batch of 3 does not divide the batch of 4 (tiny)" in done.stderr
