"""Training on real recordings of all lengths, packed into a short window: read speech that WHISPERQ_SPEECH names."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from conftest import load_make_tokenizer, write_configuration
from support.processes import Job
from transformers import WhisperConfig, WhisperForConditionalGeneration

SPEECH = Path(os.environ.get("WHISPERQ_SPEECH", ""))
WINDOW_S, STEPS = 10, 200

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (SPEECH / "librispeech_train.jsonl").is_file(), reason="WHISPERQ_SPEECH names no folder with librispeech"
    ),
]


def save_teacher(folder: Path) -> None:
    """A stock Whisper of random weights that spells: its vocabulary is bytes, its window ten seconds."""
    maker = load_make_tokenizer()
    processor = maker.make_processor(WINDOW_S)
    generation = maker.make_generation_config(processor.tokenizer)
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=len(processor.tokenizer), num_mel_bins=80, d_model=64,
        encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=128, decoder_ffn_dim=128, max_source_positions=50 * WINDOW_S, max_target_positions=320,
        decoder_start_token_id=generation.decoder_start_token_id, pad_token_id=generation.pad_token_id,
        bos_token_id=generation.bos_token_id, eos_token_id=generation.eos_token_id,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    model.generation_config = generation
    model.save_pretrained(folder)
    maker.save_processor(processor, folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("speech")
    save_teacher(folder / "teacher")
    distill = {
        "max_steps": STEPS, "batch_size": 8, "learning_rate": 0.003, "warmup_steps": 20, "kl_weight": 0.0,
        "eval_every": STEPS, "eval_limit": 2, "save_every": 1000, "pack": True, "skip_bad": True, "log_every": 20,
    }  # fmt: skip
    content = {
        "teacher": str(folder / "teacher"),
        "train": [str(SPEECH / "librispeech_train.jsonl")],
        "validation": [str(SPEECH / "librispeech_dev.jsonl")],
        "defaults": {"init-student": {"layers": 2}, "distill": distill},
    }
    write_configuration(folder, content)
    job = Job(folder, "init-student")
    assert job.exit_code() == 0, job.said
    return folder


def test_a_packed_training_on_read_speech_learns_and_goes_on_where_it_was_stopped(folder):
    log = folder / "run" / "checkpoints" / "metrics.jsonl"
    job = Job(folder, "distill")
    job.until(lambda: log.exists() and '"step": 80' in log.read_text())
    job.signal(signal.SIGUSR2)
    assert job.exit_code() == 75, job.said
    job = Job(folder, "distill")
    assert job.exit_code() == 0 and "going on from" in job.said, job.said

    durations = [json.loads(line)["duration"] for line in (SPEECH / "librispeech_train.jsonl").read_text().splitlines()]
    too_long = sum(d > WINDOW_S for d in durations)
    assert f"left out of the training data, longer than the window: {too_long:,} utterances" in job.said
    lines = (folder / "run" / "distilled" / "metrics.jsonl").read_text().splitlines()
    entries = [e for e in map(json.loads, lines) if "ce" in e]
    assert [e["step"] for e in entries] == [1, *range(20, STEPS + 1, 20)]
    assert entries[-1]["ce"] < 0.6 * entries[0]["ce"]
    unpacked = 1 - sum(d for d in durations if d <= WINDOW_S) / WINDOW_S / (len(durations) - too_long)
    packed = sum(e["padding"] for e in entries) / len(entries)
    assert packed < unpacked / 2
    manifest = json.loads((folder / "run" / "distilled" / "manifest.json").read_text())
    assert manifest["results"]["dropped"] == {"longer than the window": too_long}
