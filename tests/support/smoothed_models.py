"""Scales for models, and logits before and after they are folded."""

from pathlib import Path

import torch

from support.exported import CPU
from whisperq import artifact
from whisperq.config import source
from whisperq.data.lists import read
from whisperq.models.sites import model_sites
from whisperq.options import Execution
from whisperq.ptq.folding import foldable
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


def random_scales(model, seed: int = 0) -> dict[str, torch.Tensor]:
    """A scale for every channel of all that can be scaled; heads have them in common where their gate asks for it."""
    sites, widths, scales = model_sites(model), {}, {}
    for site, one in foldable(model).items():
        weight = model.get_parameter(one.readers[0])
        convolution = weight.dim() == 3 and site.endswith(":input")
        widths[site] = weight.shape[1] if convolution else len(model.get_parameter(one.makers[0]))
        period = one.period or widths[site]
        draw = torch.rand(period, generator=torch.Generator().manual_seed(seed + len(scales))) * 4 - 2
        scales[site] = draw.exp().repeat(widths[site] // period)
        assert sites[site].address == site
    return scales
