"""What a `Learner` trains: a network beside the float one that it learns from, as one module."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from whisperq.data.batches import Batch
from whisperq.training.losses import Weighting


class TrainingPair(nn.Module):
    """A network that is trained beside a float one; forward gives L, and the task's loss and KL summed over a batch."""

    student: PreTrainedModel
    weighting: Weighting
    task: str  # name of the task's own loss

    def set_modes(self) -> None:
        """Set train or eval mode of the student's modules for a training step."""
        raise NotImplementedError

    def in_training(self) -> AbstractContextManager[None]:
        """For a step's forward and backward passes."""
        return nullcontext()

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Arguments of `forward` for a batch."""
        raise NotImplementedError
