"""A quantized CTC model and its float original on one batch, as one module that can be run and synchronised.

    L = a_CTC * CTC(y) + a_KL * T^2 * sum_t KL(p_float(t) || p_quantized(t))

CTC: -log of the summed probability of all alignments of the labels y (Graves et al. 2006); t: an utterance's own
frames. A CTC model's frames are independent given the sound, so that both are divergences of whole utterances:
both are divided by the number of labels, as the caller does.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from whisperq.data.batches import Batch, teacher_forced
from whisperq.data.tokens import IGNORED
from whisperq.training.losses import Weighting, kl_sum
from whisperq.training.training_pair import TrainingPair


class CtcPair(TrainingPair):
    """A student CTC model with its frozen teacher; the module's parameters are the student's alone."""

    def __init__(
        self, student: PreTrainedModel, teacher: PreTrainedModel, weighting: Weighting, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.student, self.weighting, self.task = student, weighting, "ctc"
        for name, parameter in student.named_parameters():
            if name.endswith("masked_spec_embed"):  # what stands for masked frames, of which there are none here
                parameter.requires_grad_(False)
        self._teacher = [teacher.eval().requires_grad_(False).to(dtype)]  # in a list: no submodule

    def set_modes(self) -> None:
        """No dropout, dropped layers or masks: a trained model learns its grids, and KL compares it as it is used."""
        self.student.eval()

    def inputs(self, batch: Batch) -> tuple[Batch]:
        """Arguments of `forward` for a batch."""
        return (batch,)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """L and (CTC, T^2 KL), in nats summed over utterances, computed in float32."""
        device = self.student.device
        with torch.inference_mode():
            taught = batch.counted(teacher_forced(self._teacher[0], batch, device)).float()
        logits = teacher_forced(self.student, batch, device).float()
        with torch.autocast(logits.device.type, enabled=False):
            used = float(bool(batch.utterances))  # a silence that keeps processes in step teaches nothing
            ctc = used * ctc_sum(logits, batch, self.student.config.pad_token_id)
            kl = used * kl_sum(batch.counted(logits), taught, self.weighting.temperature)
        return self.weighting.ce * ctc + self.weighting.kl * kl, torch.stack([ctc, kl]).detach()


def ctc_sum(logits: Tensor, batch: Batch, blank: int) -> Tensor:
    """logits (batch, frames, vocabulary) -> CTC summed over utterances; no alignment at all counts as zero."""
    log_p = torch.log_softmax(logits, dim=-1).transpose(0, 1)
    if torch.are_deterministic_algorithms_enabled():
        log_p = log_p.cpu()  # the GPU's gradient is summed in any order
    labels = batch.tokens.labels.to(log_p.device)
    frames = torch.tensor(batch.lengths["frames"])
    lengths = (batch.tokens.labels != IGNORED).sum(dim=1)
    rows = labels.clamp(min=0)
    loss = F.ctc_loss(log_p, rows, frames, lengths, blank=blank, reduction="sum", zero_infinity=True)
    return loss.to(logits.device)
