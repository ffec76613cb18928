"""What many tests share: a tiny teacher, a few recordings, a working folder, and one whole run through the commands."""

import json
import os

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
# Without a GPU Triton runs its kernels in an interpreter. It reads this when it is imported, which PyTorch may do.
if not any(map(os.path.exists, ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd"))):
    os.environ.setdefault("TRITON_INTERPRET", "1")

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from transformers import WhisperConfig, WhisperForConditionalGeneration
from typer.testing import CliRunner, Result

from whisperq.cli.app import app
from whisperq.native import build

torch.set_num_threads(1)  # such small tensors only lose by being shared

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
COUNTS = {"train": 12, "validation": 8, "test": 8}
Invoke = Callable[..., Result]


def load_make_tokenizer():
    spec = importlib.util.spec_from_file_location("make_tokenizer", DIGITS / "make_tokenizer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def teacher(tmp_path_factory) -> Path:
    """A stock Whisper of random weights with a window of four seconds: 4 encoder layers, 3 decoder layers."""
    maker, folder = load_make_tokenizer(), tmp_path_factory.mktemp("models") / "teacher"
    processor = maker.make_processor()
    generation = maker.make_generation_config(processor.tokenizer)
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=len(processor.tokenizer), num_mel_bins=80, d_model=32,
        encoder_layers=4, decoder_layers=3, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=64, decoder_ffn_dim=64, max_source_positions=200, max_target_positions=maker.MAX_TOKENS,
        decoder_start_token_id=generation.decoder_start_token_id, pad_token_id=generation.pad_token_id,
        bos_token_id=generation.bos_token_id, eos_token_id=generation.eos_token_id,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    model.generation_config = generation
    decoder = model.model.decoder  # one that ends at once, so that decoding is quick
    decoder.embed_tokens.weight.data[generation.eos_token_id] = decoder.layer_norm.bias.data[:] = 0.5
    model.save_pretrained(folder)
    maker.save_processor(processor, folder)
    return folder


def sample_lines(name: str, count: int) -> list[dict]:
    """The first lines of a list of the embedded sample, audio paths absolute."""
    folder = DIGITS / "sample"
    lines = (folder / f"{name}.jsonl").read_text().splitlines()[:count]
    return [{**(line := json.loads(text)), "audio_filepath": str(folder / line["audio_filepath"])} for text in lines]


def write_lines(path: Path, lines: list) -> Path:
    """An utterance list; a string is written as it is."""
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(f"{text}\n" for text in texts))
    return path


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """train.jsonl, validation.jsonl and test.jsonl with a handful of utterances each."""
    folder = tmp_path_factory.mktemp("digits")
    for name, count in COUNTS.items():
        write_lines(folder / f"{name}.jsonl", sample_lines(name, count))
    return folder


def configuration(teacher: Path, digits: Path) -> dict:
    distill = {"max_steps": 2, "batch_size": 4, "eval_every": 1, "warmup_steps": 1, "eval_limit": 2}
    return {
        "teacher": str(teacher),
        "normalizer": "basic",
        "train": [str(digits / "train.jsonl")],
        "validation": [str(digits / "validation.jsonl")],
        "test": {"digits": str(digits / "test.jsonl")},
        "defaults": {"init-student": {"layers": 2}, "distill": distill, "calibrate": {"batches": 2, "batch_size": 4}},
    }


def write_configuration(folder: Path, content: dict) -> None:
    (folder / "whisperq.yaml").write_text(yaml.safe_dump(content))


@pytest.fixture
def workspace(tmp_path, monkeypatch, teacher, digits) -> Path:
    """An empty working folder with a whisperq.yaml; it is the current one."""
    write_configuration(tmp_path, configuration(teacher, digits))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WHISPERQ_RUN", raising=False)
    return tmp_path


def run_command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="session")
def invoke() -> Invoke:
    """invoke("calibrate", "--batches", "2") -> a result with exit_code, stdout and stderr."""
    return run_command


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, teacher, digits) -> Path:
    """A run folder with student, distilled, calibration, and both recipes quantized; do not write into it."""
    folder = tmp_path_factory.mktemp("finished")
    write_configuration(folder, configuration(teacher, digits))
    run = folder / "run"
    common = ("--config", folder / "whisperq.yaml", "--run", run)
    for command in ("init-student", "distill", "calibrate", "quantize", "quantize --recipe paper"):
        result = run_command(*command.split(), *common)
        assert result.exit_code == 0, result.output
    return run


@pytest.fixture
def copied_run(workspace, finished_run) -> Path:
    """workspace/run as a copy of the finished run, to be damaged at will; its manifests name the original's inputs."""
    return Path(shutil.copytree(finished_run, workspace / "run"))


@pytest.fixture
def no_compiler(monkeypatch):
    """A machine on which the kernels cannot be compiled."""
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    build.library.cache_clear()
    yield
    build.library.cache_clear()
