"""Beam search against transformers' own; every runtime against the search in float; and what it is refused for."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from conftest import DIGITS
from support.exported import CPU, exported, float_folder, opened, quantized_folder
from support.scripted_runtime import few_words, until_end
from support.tiny import PROMPT, features, gated_model, processor

from whisperq.data.tokens import make_codec
from whisperq.errors import UsageError
from whisperq.runtime.beams import BeamRules, with_beams
from whisperq.runtime.ctc import CtcRules
from whisperq.runtime.decoding import Rules, make_rules, write
from whisperq.runtime.detection import Question
from whisperq.runtime.int8.whisper import Int8Runtime
from whisperq.runtime.interface import Runtime
from whisperq.runtime.open import open_model
from whisperq.runtime.pytorch import PyTorchRuntime

LIBRARIES = {"onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}
ENGINES, RUNTIMES = ("onnx", "openvino"), ("float", "emulated", "int8", "onnx", "openvino")


@pytest.mark.parametrize("beams", [2, 5])
@pytest.mark.parametrize("gate, seed", [("headwise", 0), ("headwise", 1), ("none", 3), ("mlp", 4)])
def test_beams_equal_generates(gate: str, seed: int, beams: int) -> None:
    model = gated_model(gate, seed=seed)
    few_words(model, seed)
    runtime = PyTorchRuntime(model)
    rules = make_rules(make_codec(processor, model, "en", "transcribe"), model.generation_config)
    ours = with_beams(rules, beams).read(runtime, features(5, seed))
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
        differ += with_beams(rules, 5).read(runtime, features(5, seed)) != rules.read(runtime, features(5, seed))
    assert differ


def test_a_batch_is_its_utterances() -> None:
    model = gated_model(seed=1)
    few_words(model, 1)
    runtime = PyTorchRuntime(model)
    rules = with_beams(make_rules(make_codec(processor, model, "en", "transcribe"), model.generation_config), 3)
    together = rules.read(runtime, features(5, 1))
    assert together == [rules.read(runtime, one[None])[0] for one in features(5, 1)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """One tiny model, in float and in INT8."""
    folder, model = tmp_path_factory.mktemp("beams"), gated_model(seed=1)
    few_words(model, 1)
    return {"float": float_folder(model, folder / "float"), "int8": quantized_folder(model, folder / "int8")}


@contextmanager
def running(name: str, folders: dict[str, Path], attention_dtype: str = "float32") -> Iterator[tuple[Runtime, Rules]]:
    """The tiny model in one of the runtimes; the engines run its float export."""
    with open_model(folders["float" if name in ("float", *ENGINES) else "int8"], CPU) as model:
        if name == "int8":
            yield Int8Runtime.load(folders["int8"], "cpu", attention_dtype), model.rules
        elif name in ENGINES:
            for library in LIBRARIES[name]:
                pytest.importorskip(library)
            out = folders["float"].with_name("onnx")
            yield opened(out if out.exists() else exported(folders["float"], out), name), model.rules
        else:
            yield model.runtime, model.rules


@pytest.mark.parametrize("name", RUNTIMES)
def test_one_beam_is_greedy(name: str, folders) -> None:
    """The search itself too, which `--beams 1` does not even ask."""
    with running(name, folders) as (runtime, rules):
        assert with_beams(rules, 1) is rules
        alone = BeamRules(**vars(rules), beams=1)
        assert alone.read(runtime, features(5, 1)) == rules.read(runtime, features(5, 1))


@pytest.mark.parametrize("name", RUNTIMES)
def test_every_runtime_takes_the_prompt_in_two_parts(name: str, folders) -> None:
    """As it is given where something is asked at its first token."""
    with running(name, folders) as (runtime, rules):
        asked = write(runtime, features(5, 1), rules, Question(no_speech=5, languages=(PROMPT[1], 7)))
        assert [one.ids for one in asked] == rules.read(runtime, features(5, 1))


@pytest.mark.parametrize("name", RUNTIMES)
def test_every_runtime_ends_at_each_utterances_bound(name: str, folders) -> None:
    with running(name, folders) as (runtime, rules):
        endless = replace(rules, suppressed=(*rules.suppressed, rules.end))
        x = features(3, 1)
        x[0, :, 50:], x[1, :, 10:] = x[0].min(), x[1].min()
        found = replace(endless, tokens_per_second=10).read(runtime, x)
        assert found == [row[:n] for row, n in zip(endless.read(runtime, x), (21, 17, 26), strict=True)]
        assert [len(row) for row in found] == [21, 17, 26]


@pytest.mark.slow
@pytest.mark.parametrize("beams", [3, 5])
@pytest.mark.parametrize("name, same", [("int8", "emulated"), ("onnx", "float"), ("openvino", "float")])
def test_every_runtime_finds_what_pytorch_finds(name: str, same: str, beams: int, folders) -> None:
    found = {}
    for one in (name, same):
        with running(one, folders) as (runtime, rules):
            found[one] = with_beams(rules, beams).read(runtime, features(5, 1))
            greedy = rules.read(runtime, features(5, 1))
    assert found[name] == found[same] != greedy


# Two utterances; three rows of each after the prompt; then rows that change places, and one that is there twice.
BRANCHES = ([0, 0, 0, 1, 1, 1], [2, 0, 2, 3, 5, 4])
TOKENS = torch.tensor([[11, 12, 13, 14, 15, 16], [21, 22, 23, 24, 25, 26]])


@pytest.mark.parametrize(
    "name, dtype", [*((name, "float32") for name in RUNTIMES), ("int8", "bfloat16")], ids=lambda x: x
)
def test_a_branch_is_what_it_was_branched_from(name: str, dtype: str, folders) -> None:
    """As if each row had been decoded by itself from the start."""
    if dtype == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU multiplies no bf16")
    own = [(0, 13), (0, 11), (0, 13), (1, 14), (1, 16), (1, 15)]  # of each row at last: its utterance and first token
    with running(name, folders, dtype) as (runtime, _):
        state = runtime.encode(features(2))
        runtime.decode_step(torch.tensor([PROMPT] * 2), state)
        for rows, tokens in zip(BRANCHES, TOKENS, strict=True):
            runtime.branch(state, torch.tensor(rows))
            found = runtime.decode_step(tokens[:, None], state)
        whole = runtime.encode(features(2)[[utterance for utterance, _ in own]])
        for tokens in (torch.tensor([PROMPT] * 6), torch.tensor([[t] for _, t in own]), TOKENS[1][:, None]):
            expected = runtime.decode_step(tokens, whole)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_cross_attention_is_computed_once_and_shared_in_integers(folders) -> None:
    with running("int8", folders) as (runtime, _):
        state = runtime.encode(features(2))
        before = [(cache.keys, cache.values) for cache in state.cross]
        runtime.decode_step(torch.tensor([PROMPT] * 2), state)
        runtime.branch(state, torch.tensor(BRANCHES[0]))
        runtime.decode_step(TOKENS[0][:, None], state)
        assert all(c.keys is k and c.values is v for c, (k, v) in zip(state.cross, before, strict=True))


def test_cross_attention_is_computed_once_in_float(folders) -> None:
    with running("float", folders) as (runtime, rules):
        projection = runtime.model.model.decoder.layers[0].encoder_attn.k_proj
        with patch.object(projection, "forward", wraps=projection.forward) as computed:
            with_beams(rules, 3).read(runtime, features(5, 1))
        shapes = [call.args[0].shape[0] for call in computed.call_args_list]
        assert shapes == [5]  # utterances, not their beams


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory, invoke) -> Path:
    """The teacher that comes with the examples, in INT8, and its float export."""
    run = tmp_path_factory.mktemp("spoken") / "run"
    teacher = ("--model", DIGITS / "teacher", "--run", run)
    data = ("--data", DIGITS / "sample" / "validation.jsonl", "--batches", "3")
    for command in (("calibrate", *data), ("quantize",)):
        done = invoke(*command, *teacher)
        assert done.exit_code == 0, done.output
    return run


def transcripts(invoke, run: Path, model: str | Path, runtime: str, beams: int = 3) -> list[str]:
    """Of some spoken digits."""
    out = run / "eval" / f"{Path(model).name}-{runtime}-{beams}"
    attention = ("--attention-dtype", "float32") if runtime in ("int8", *ENGINES) else ()
    test = ("--test", f"spoken={DIGITS / 'sample' / 'test.jsonl'}", "--limit", "24", "--normalizer", "basic")
    how = ("--model", model, "--runtime", runtime, "--beams", beams, *attention)
    done = invoke("eval", "--run", run, *how, *test, "--out", out)
    assert done.exit_code == 0, done.output
    lines = (out / "hypotheses" / "spoken.jsonl").read_text().splitlines()
    return [json.loads(line)["pred_text"] for line in lines]


@pytest.mark.slow
def test_spoken_digits_in_integers(digits_run, invoke) -> None:
    found = transcripts(invoke, digits_run, "gemm-w8a8", "int8")
    assert found == transcripts(invoke, digits_run, "gemm-w8a8", "emulated") and len(set(found)) > 12


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_spoken_digits_in_an_exported_model(name: str, digits_run, invoke) -> None:
    for library in LIBRARIES[name]:
        pytest.importorskip(library)
    if not (out := digits_run / "onnx" / "teacher").exists():
        assert invoke("export", "--run", digits_run, "--model", DIGITS / "teacher", "--out", out).exit_code == 0
    expected = transcripts(invoke, digits_run, DIGITS / "teacher", "float", beams=4)
    assert transcripts(invoke, digits_run, out, name, beams=4) == expected


def test_eval_with_beams(workspace, teacher, invoke) -> None:
    done = invoke("eval", "--model", teacher, "--beams", "3", "--limit", "3", "--out", "e", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["config"]["beams"] == 3
    assert torch.is_inference_mode_enabled() is False


def test_ctc_is_refused() -> None:
    rules = CtcRules(blank=0)
    assert with_beams(rules, 1) is rules
    with pytest.raises(UsageError, match="--beams is for Whisper"):
        with_beams(rules, 2)
