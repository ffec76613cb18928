"""Student and teacher on one batch, as one module that can be run, compiled and synchronised."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from whisperq.data.batches import Batch
from whisperq.data.tokens import IGNORED
from whisperq.models.families import family_of
from whisperq.models.gated_whisper import GatedWhisperForConditionalGeneration
from whisperq.training.ctc_pair import CtcPair
from whisperq.training.losses import Head, Weighting, distillation_sums
from whisperq.training.training_pair import TrainingPair
from whisperq.training_options import MixedPrecisionConfig

Whisper = GatedWhisperForConditionalGeneration


# Encoder positions from which fused attention trains faster on a CPU (two cores of a Xeon with AMX, bfloat16): its
# backward takes twice as long as the explicit form's at 200 positions, both passes together 0.75 of it at 1,500.
FUSED_FROM = 750


def attention_kernel(device: str, positions: int) -> str:
    """transformers' name of the attention that trains fastest."""
    return "eager" if device == "cpu" and positions < FUSED_FROM else "sdpa"


class Pair(TrainingPair):
    """Its parameters are the student's, which are trained; the teacher's are frozen and no part of it."""

    student: Whisper

    def __init__(
        self, student: Whisper, teacher: Whisper, weighting: Weighting, dtype: torch.dtype, compiled: bool = False
    ) -> None:
        """dtype: in which the teacher is held, whose weights autocast would round anew in every step."""
        super().__init__()
        self.student, self.weighting, self.task = student, weighting, "ce"
        self.encoder_frozen = not any(p.requires_grad for p in student.model.encoder.parameters())
        self.shares_encoder = self.encoder_frozen and same_encoder(student, teacher)
        # In a list: no submodule, neither saved nor synchronised.
        self._teacher = [teacher.eval().requires_grad_(False).to(dtype)]
        # Compiled forms are for training alone: decoding with its growing cache would compile without end.
        self._compiled: dict[nn.Module, Any] = {}
        for model in (student, teacher) if compiled else ():
            self._compiled[model.model.encoder] = torch.compile(model.model.encoder)
            self._compiled[model.model.decoder] = torch.compile(model.model.decoder, dynamic=True)  # texts differ

    @property
    def teacher(self) -> Whisper:
        return self._teacher[0]

    def set_modes(self) -> None:
        """For a training step: dropout where weights are learned."""
        self.student.train()
        if self.encoder_frozen:
            self.student.model.encoder.eval()

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """What `forward` takes of a batch."""
        labels = batch.tokens.labels.flatten()
        rows = (labels != IGNORED).nonzero().squeeze(1)
        return batch.features, batch.tokens.inputs, rows, labels[rows]

    def forward(self, features: Tensor, inputs: Tensor, rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """features (batch, mel bins, frames), inputs (batch, tokens); rows: which of the batch * tokens are labelled.

        Returns L and (CE, KL), summed over the labelled tokens.
        """
        encoded = self._encoded(self.student, features, torch.no_grad if self.encoder_frozen else torch.enable_grad)
        with torch.inference_mode():
            taught = encoded if self.shares_encoder else self._encoded(self.teacher, features, torch.inference_mode)
            teacher = self._head(self.teacher, inputs, taught, rows)
        student = self._head(self.student, inputs, encoded, rows)
        return distillation_sums(student, teacher, labels, self.weighting)

    def _encoded(self, model: Whisper, features: Tensor, mode: Any) -> Tensor:
        with mode():
            return self._call(model.model.encoder)(features.to(model.dtype)).last_hidden_state

    def _head(self, model: Whisper, inputs: Tensor, encoded: Tensor, rows: Tensor) -> Head:
        decoder = self._call(model.model.decoder)
        hidden = decoder(input_ids=inputs, encoder_hidden_states=encoded, use_cache=False).last_hidden_state
        return Head(hidden.flatten(0, 1)[rows], model.proj_out.weight)

    def _call(self, module: nn.Module) -> Any:
        return self._compiled.get(module, module)


def make_pair(
    student: PreTrainedModel, teacher: PreTrainedModel, config: MixedPrecisionConfig, dtype: torch.dtype
) -> TrainingPair:
    """A network of any family beside its float original."""
    weighting = Weighting(config.task_weight, config.kl_weight, config.temperature)
    if family_of(student.config).output == "ctc":
        return CtcPair(student, teacher, weighting, dtype)
    assert isinstance(student, Whisper) and isinstance(teacher, Whisper), "the other family is Whisper"
    for model in (student, teacher):
        model.set_attn_implementation(attention_kernel(model.device.type, model.config.max_source_positions))
    return Pair(student, teacher, weighting, dtype, config.compile)


def same_encoder(student: Whisper, teacher: Whisper) -> bool:
    """Whether both encoders are the same network with the same weights, so that one run serves both."""
    ours, theirs = (m.model.encoder.state_dict() for m in (student, teacher))
    heads = [m.config.encoder_attention_heads for m in (student, teacher)]
    return ours.keys() == theirs.keys() and heads[0] == heads[1] and all(torch.equal(ours[k], theirs[k]) for k in ours)
