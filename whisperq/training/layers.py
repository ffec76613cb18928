"""How the layers of a network in training run: compiled, and what they keep for the backward pass."""

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

# transformers wraps the forward of all layers in one function, and torch counts the forms of a function: student and
# teacher, encoder and decoder, for any batch, for a batch of one, with and without gradients.
MOST_FORMS = 32


def recompute_layers(student: nn.Module) -> None:
    """Each layer keeps its input alone, and computes the rest again in the backward pass."""
    for layer in (m for m in student.modules() if isinstance(m, GradientCheckpointingLayer)):
        layer.gradient_checkpointing = True  # transformers' layers ask for these two
        # nn.Module's annotations know tensors and modules alone.
        layer._gradient_checkpointing_func = functools.partial(checkpoint, use_reentrant=False)  # type: ignore[assignment]


class CompiledLayers:
    """The layers of Whisper models, compiled one by one: all of a kind share one compilation, however many they are."""

    def __init__(self, models: Iterable[PreTrainedModel]) -> None:
        self.forms: dict[nn.Module, Callable[..., Any]] = {}
        for model in models:
            self.forms |= {layer: torch.compile(layer.forward) for layer in model.model.encoder.layers}
            # Texts differ in length.
            self.forms |= {layer: torch.compile(layer.forward, dynamic=True) for layer in model.model.decoder.layers}

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Elsewhere layers run as they are: decoding, with its growing cache, would compile without end."""
        for layer, form in self.forms.items():
            layer.forward = form
        try:
            with torch._dynamo.config.patch(recompile_limit=MOST_FORMS):
                yield
        finally:
            for layer in self.forms:
                del layer.forward
