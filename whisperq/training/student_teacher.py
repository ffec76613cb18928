"""Student and teacher on one batch, as one module that can be run, compiled and synchronised."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from whisperq.data.batches import Batch
from whisperq.data.tokens import IGNORED
from whisperq.models.families import family_of
from whisperq.models.gated_whisper import GatedWhisperForConditionalGeneration
from whisperq.training.attention import attention_kernel
from whisperq.training.ctc_pair import CtcPair
from whisperq.training.layers import CompiledLayers
from whisperq.training.losses import Head, Weighting, distillation_sums
from whisperq.training.ranges import Ranges, penalty_sum
from whisperq.training.teacher_cache import TeacherCache
from whisperq.training.training_pair import TrainingPair
from whisperq.training_options import MixedPrecisionConfig

Whisper = GatedWhisperForConditionalGeneration


class Pair(TrainingPair):
    """A Whisper student with its frozen teacher; the module's parameters are the student's alone."""

    student: Whisper

    def __init__(
        self,
        student: Whisper,
        teacher: Whisper,
        weighting: Weighting,
        dtype: torch.dtype,
        compiled: bool = False,
        cache: TeacherCache | None = None,
    ) -> None:
        """dtype: in which the teacher is held, whose weights autocast would round anew in every step.

        cache: keeps what the teacher says, so that it runs for windows alone that are not there.
        """
        super().__init__()
        self.dtype, self.cache = dtype, cache
        self.ranges = Ranges(student) if weighting.ranges else None
        self.terms = ("range",) if self.ranges else ()  # of the loss, beside the task's own and KL
        self.student, self.weighting, self.task = student, weighting, "ce"
        # Few layers are left of the teacher's, so that all of them learn in every step, whatever its config.json drops.
        student.model.encoder.layerdrop = student.model.decoder.layerdrop = 0.0
        self.encoder_frozen = not any(p.requires_grad for p in student.model.encoder.parameters())
        self.shares_encoder = self.encoder_frozen and same_encoder(student, teacher)
        # In a list: no submodule, neither saved nor synchronised.
        self._teacher = [teacher.eval().requires_grad_(False).to(dtype)]
        self._compiled = CompiledLayers((student, teacher) if compiled else ())

    @property
    def teacher(self) -> Whisper:
        return self._teacher[0]

    def set_modes(self) -> None:
        """Set train or eval mode for a training step: dropout only in parts whose weights are learned."""
        self.student.train()
        if self.encoder_frozen:
            self.student.model.encoder.eval()

    def in_training(self) -> AbstractContextManager[None]:
        """For a step's forward and backward passes."""
        return self._compiled.in_use()

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Arguments of `forward` for a batch."""
        labels = batch.tokens.labels.flatten()
        rows = (labels != IGNORED).nonzero().squeeze(1)
        usual = batch.features, batch.tokens.inputs, rows, labels[rows]
        if self.cache is None or not batch.digests:
            return usual
        return *usual, self._taught(batch, self.cache)

    def forward(
        self, features: Tensor, inputs: Tensor, rows: Tensor, labels: Tensor, taught: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """features (batch, mel bins, frames), inputs (batch, tokens); rows: which of the batch * tokens are labelled.

        taught: the teacher's hidden states of those, (rows, width), where it need not be asked.

        Returns L and (CE, KL, then `terms`), summed over the labelled tokens.
        """
        used = torch.zeros(inputs.numel(), dtype=torch.bool, device=features.device).index_fill(0, rows, True)
        used = used.view(inputs.shape)
        gathering: AbstractContextManager[list[Tensor]] = self.ranges.gathered(used) if self.ranges else nullcontext([])
        with gathering as peaks:
            mode = torch.no_grad if self.encoder_frozen else torch.enable_grad
            encoded = self._encoded(self.student, features, mode)
            student = self._head(self.student, inputs, encoded, rows)
        teacher = self._asked(features, inputs, rows, encoded) if taught is None else taught.to(features.device)
        loss, sums = distillation_sums(student, Head(teacher, self.teacher.proj_out.weight), labels, self.weighting)
        if not self.ranges:
            return loss, sums
        penalty = penalty_sum(peaks, used) if len(rows) else torch.zeros((), device=used.device)
        return loss + self.weighting.ranges * penalty, torch.cat([sums, penalty.detach()[None]])

    @torch.inference_mode()
    def _asked(self, features: Tensor, inputs: Tensor, rows: Tensor, encoded: Tensor | None = None) -> Tensor:
        """The teacher's hidden states; `encoded` by the student, whose encoder may be the teacher's too."""
        if encoded is None or not self.shares_encoder:
            encoded = self._encoded(self.teacher, features, torch.inference_mode)
        return self._head(self.teacher, inputs, encoded, rows).hidden

    def _taught(self, batch: Batch, cache: TeacherCache) -> Tensor:
        """The teacher's hidden states (labelled tokens, width), from the cache where it has them.

        Missing windows are computed one at a time, so that no result depends on the rest of the batch.
        """
        parts = [torch.empty(0, self.teacher.config.d_model, dtype=self.dtype)]
        for number, digest in enumerate(batch.digests):
            if (found := cache.get(digest)) is None:
                found = self._asked_alone(batch, number)
                cache.put(digest, found)
            parts.append(found)
        return torch.cat(parts)

    @torch.inference_mode()
    def _asked_alone(self, batch: Batch, number: int) -> Tensor:
        device, length = batch.features.device, batch.tokens.lengths[number]
        inputs = batch.tokens.inputs[number : number + 1, :length].to(device)
        with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
            found = self._asked(batch.features[number : number + 1], inputs, torch.arange(length, device=device))
        return found.to(self.dtype).cpu()  # a GPU's autocast makes the last norm's output float32, for twice the room

    def _encoded(self, model: Whisper, features: Tensor, mode: Any) -> Tensor:
        with mode():
            return model.model.encoder(features.to(model.dtype)).last_hidden_state

    def _head(self, model: Whisper, inputs: Tensor, encoded: Tensor, rows: Tensor) -> Head:
        """Causal attention alone keeps the padding, which follows the texts, out of them: there is no mask of it."""
        # A cache that stays empty. Without one transformers reads the positions, to see whether texts are packed,
        # and the host would wait for them; with one it has no mask made where fused attention can be told "causal".
        cache = DynamicCache()
        given = {"input_ids": inputs, "encoder_hidden_states": encoded, "past_key_values": cache}
        hidden = model.model.decoder(**given, use_cache=False).last_hidden_state
        return Head(hidden.flatten(0, 1)[rows], model.proj_out.weight)


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
