"""Beam search against transformers' own, and what it is refused for."""

import json

import pytest
import torch
from test_decoding import few_words, until_end
from tiny import features, gated_model, processor

from whisperq.data.tokens import make_codec
from whisperq.runtime.beams import with_beams
from whisperq.runtime.decoding import make_rules
from whisperq.runtime.pytorch import PyTorchRuntime


@pytest.mark.parametrize("beams", [2, 5])
@pytest.mark.parametrize("gate, seed", [("headwise", 0), ("headwise", 1), ("none", 3), ("mlp", 4)])
def test_beams_equal_generates(gate: str, seed: int, beams: int) -> None:
    model = gated_model(gate, seed=seed)
    few_words(model, seed)
    runtime = PyTorchRuntime(model)
    rules = make_rules(make_codec(processor, model, "en", "transcribe"), model.generation_config)
    ours = with_beams(rules, runtime, beams).read(runtime, features(5, seed))
    theirs = model.generate(features(5, seed), num_beams=beams, do_sample=False)
    assert ours == [until_end(row) for row in theirs.tolist()]


def test_beams_find_likelier_texts_than_greedy() -> None:
    """Otherwise the comparison above could be with greedy decoding as well."""
    differ = 0
    for seed in range(4):
        model = gated_model(seed=seed)
        few_words(model, seed)
        runtime = PyTorchRuntime(model)
        rules = make_rules(make_codec(processor, model, "en", "transcribe"), model.generation_config)
        differ += with_beams(rules, runtime, 5).read(runtime, features(5, seed)) != rules.read(
            runtime, features(5, seed)
        )
    assert differ


def test_a_batch_is_its_utterances() -> None:
    model = gated_model(seed=1)
    few_words(model, 1)
    runtime = PyTorchRuntime(model)
    rules = with_beams(
        make_rules(make_codec(processor, model, "en", "transcribe"), model.generation_config), runtime, 3
    )
    together = rules.read(runtime, features(5, 1))
    assert together == [rules.read(runtime, one[None])[0] for one in features(5, 1)]


def test_eval_with_beams(workspace, teacher, invoke) -> None:
    done = invoke("eval", "--model", teacher, "--beams", "3", "--limit", "3", "--out", "e", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["config"]["beams"] == 3
    assert torch.is_inference_mode_enabled() is False


def test_runtimes_that_cannot_branch_refuse(copied_run, invoke) -> None:
    done = invoke("eval", "--model", "gemm-w8a8", "--runtime", "int8", "--beams", "2")
    assert done.exit_code == 2 and "--beams is for --runtime float and emulated" in done.stderr
