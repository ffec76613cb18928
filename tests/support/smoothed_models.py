"""Logits of models before and after their scales are folded."""

from pathlib import Path

import torch

from support.exported import CPU
from whisperq import artifact
from whisperq.config import source
from whisperq.data.lists import read
from whisperq.options import Execution
from whisperq.runtime.open import open_runtime


def run(invoke, folder: Path, *arguments) -> artifact.Artifact:
    result = invoke(*arguments, "--run", folder)
    assert result.exit_code == 0, result.output
    return artifact.load(Path(arguments[arguments.index("--out") + 1]))


def spoken_logits(folder: Path, digits: Path, runtime: str | None = None) -> torch.Tensor:
    """Logits (utterances, vocabulary) after the references of real recordings."""
    utterances = read(source(str(digits / "test.jsonl"), digits, "test")).utterances
    rows = []
    with open_runtime(folder, Execution(runtime, "float32" if runtime == "int8" else "auto"), CPU) as opened:
        for utterance in utterances:
            batch = opened.loader.labelled([utterance])
            rows.append(opened.runtime.decode_step(batch.tokens.inputs, opened.runtime.encode(batch.features)))
    return torch.cat(rows).detach()
