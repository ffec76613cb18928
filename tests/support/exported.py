"""Quantized and float folders of tiny models, exported; and what runs them token by token."""

from pathlib import Path

import torch

from support.quantizing import saved
from support.tiny import PROMPT, decoder_ids, features, processor
from whisperq import artifact
from whisperq.models.loading import load_config, save_model
from whisperq.options import ExportConfig
from whisperq.ptq.plan import make_plan
from whisperq.runtime.interface import Runtime
from whisperq.runtime.onnx.whisper import GraphRuntime, open_graphs
from whisperq.runtime.open import open_model
from whisperq.settings import Context
from whisperq.steps.export import export
from whisperq.steps.quantize import describe

CPU = Context(device="cpu")


def float_folder(model, folder: Path) -> Path:
    folder.mkdir(parents=True)
    save_model(model, processor, folder)
    return folder


def quantized_folder(model, folder: Path, recipe: str = "gemm", bits: int = 8, **options) -> Path:
    """As `whisperq quantize` leaves it, its ranges from random input."""
    with artifact.create(folder, "quantized", "quantize", {}, {}) as draft:
        saved(model, draft.folder, recipe, bits, **options)
        draft.results |= {"recipe": recipe, **describe(make_plan(model, recipe, **options))}
    return folder


def exported(folder: Path, out: Path | None = None, **options) -> Path:
    return export(folder, out or folder.with_name(f"{folder.name}-onnx"), ExportConfig(**options), CPU).path


def opened(folder: Path, name: str, attention_dtype: str = "float32") -> GraphRuntime:
    return open_graphs(folder, name, load_config(folder), attention_dtype)


@torch.inference_mode()
def step_logits(runtime: Runtime, batch: int = 3, steps: int = 5, seed: int = 0) -> torch.Tensor:
    """Logits (steps, batch, vocabulary) of a prompt and then one random token after the other."""
    state = runtime.encode(features(batch, seed))
    prompt = torch.tensor([PROMPT] * batch)
    return torch.stack(
        [runtime.decode_step(t, state) for t in (prompt, *decoder_ids(batch, steps, seed).split(1, dim=1))]
    )


def pytorch_logits(folder: Path, **options) -> torch.Tensor:
    """The same of the folder's own model: float, or emulated."""
    with open_model(folder, CPU) as model:
        return step_logits(model.runtime, **options)


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Mean, relative."""
    return float((found - expected).abs().mean() / expected.abs().mean())
