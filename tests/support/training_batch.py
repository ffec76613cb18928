"""A batch and a distiller for tests of training."""

import torch

from support.tiny import END, PROMPT, TEXTS, features, gated_model, processor, utterances
from whisperq.data.batches import Batch
from whisperq.data.tokens import Codec
from whisperq.training.loop import Distiller
from whisperq.training_options import DistillConfig

CODEC = Codec(processor.tokenizer, PROMPT, END, 64)


def batch(start: int = 0, stop: int = 4) -> Batch:
    names = utterances(4)[start:stop]
    return Batch(features(4)[start:stop], CODEC.batch(TEXTS[start:stop], [u.id for u in names]), tuple(names))


def make_distiller(
    seed: int = 0,
    dropout: float = 0.0,
    teacher_layers: int = 2,
    gate: str = "headwise",
    autocast: torch.dtype = torch.float32,
    **changes,
) -> Distiller:
    drops = {name: changes.pop(name) for name in ("encoder_layerdrop", "decoder_layerdrop") if name in changes}
    student = gated_model(gate, seed=1, encoder_layers=1, decoder_layers=teacher_layers, dropout=dropout, **drops)
    teacher = gated_model("none", seed=2, encoder_layers=teacher_layers, decoder_layers=teacher_layers)
    config = DistillConfig(**{"max_grad_norm": 0.0, "warmup_steps": 0, "max_steps": 10, "temperature": 2.0} | changes)
    return Distiller(student, teacher, config, autocast, seed)


def gradients(distiller: Distiller) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in distiller.student.named_parameters() if p.grad is not None}
