"""How the layers of a network in training run: what they keep for the backward pass."""

import functools

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


def recompute_layers(student: nn.Module) -> None:
    """Each layer keeps its input alone, and computes the rest again in the backward pass."""
    for layer in (m for m in student.modules() if isinstance(m, GradientCheckpointingLayer)):
        layer.gradient_checkpointing = True  # transformers' layers ask for these two
        # nn.Module's annotations know tensors and modules alone.
        layer._gradient_checkpointing_func = functools.partial(checkpoint, use_reentrant=False)  # type: ignore[assignment]
