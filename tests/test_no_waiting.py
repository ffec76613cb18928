"""A training step never makes the host wait for a GPU; on a CPU, by looking at every operator that it calls."""

import copy
from collections.abc import Sequence

import pytest
import torch
from support.tiny import stock_twin
from support.training_batch import batch, gradients, make_distiller
from support.waiting import Waited, no_waiting
from torch import Tensor, nn

from whisperq.data.tokens import IGNORED
from whisperq.training.attention import NAME
from whisperq.training.loop import Distiller

pytestmark = pytest.mark.slow

SETTINGS = {
    "as it is": {},
    "clipped": {"max_grad_norm": 0.1, "temperature": 1.0},
    "bfloat16": {"autocast": torch.bfloat16},
    "ranges": {"range_weight": 0.1},
    "recomputed": {"recompute": True, "dropout": 0.1},
    "frozen encoder": {"freeze_encoder": True},
}


def with_attention(name: str, **changes) -> Distiller:
    distiller = make_distiller(**changes)
    for model in (distiller.student, distiller.teacher):
        model.set_attn_implementation(name)
    return distiller


def guarded_step(distiller: Distiller) -> float:
    parts = [batch(0, 3), batch(3, 4)]
    host = [x for b in parts for x in (b.tokens.inputs, b.tokens.labels)]
    with no_waiting(distiller, *host) as mode:
        step = distiller.step(0, parts)
    assert mode.seen > 500
    return step.read().loss


@pytest.mark.parametrize("attention", ["sdpa", "eager", NAME])
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_step_waits_for_nothing(attention, setting):
    loss = guarded_step(with_attention(attention, **SETTINGS[setting]))
    free = with_attention(attention, **SETTINGS[setting])
    assert loss == free.step(0, [batch(0, 3), batch(3, 4)]).read().loss > 0


def reads_in_forward(student: nn.Module) -> None:
    student.model.decoder.layers[0].register_forward_hook(lambda _m, _args, out: out.sum().item() and None)


def reads_in_backward(student: nn.Module) -> None:
    def read(grad: Tensor) -> None:
        grad.abs().max().item()

    student.model.encoder.layers[0].fc1.weight.register_hook(read)


def selects_by_mask(student: nn.Module) -> None:
    student.model.encoder.register_forward_hook(lambda _m, _args, out: out[0][out[0] > 0].sum() and None)


def copies_to_the_host(student: nn.Module) -> None:
    student.model.encoder.conv1.register_forward_hook(lambda _m, _args, out: out.detach().flatten().tolist() and None)


@pytest.mark.parametrize("plant", [reads_in_forward, reads_in_backward, selects_by_mask, copies_to_the_host])
def test_what_waits_is_seen(plant):
    distiller = make_distiller()
    plant(distiller.student)
    with pytest.raises(Waited):
        guarded_step(distiller)


def test_a_gradient_norm_that_is_looked_at_is_seen(monkeypatch):
    usual = nn.utils.clip_grad_norm_
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda p, most: usual(p, most, error_if_nonfinite=True))
    with pytest.raises(Waited, match="_local_scalar_dense"):
        guarded_step(make_distiller())


def test_labels_are_counted_before_they_leave_the_host(monkeypatch):
    """With a GPU the tokens of a batch are the CPU's, and which of them are labelled is found there."""
    distiller = make_distiller()
    with pytest.raises(Waited), no_waiting(distiller):  # as though the tokens were the device's already
        distiller.step(0, [batch()])


def explicit_mask(lengths: Sequence[int], longest: int) -> Tensor:
    """(batch, 1, tokens, tokens): what each token sees of its own text, zero or minus infinity."""
    seen = torch.ones(len(lengths), 1, longest, longest, dtype=torch.bool).tril()
    seen &= torch.arange(longest) < torch.tensor(lengths)[:, None, None, None]
    return torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)


@pytest.mark.parametrize("gate", ["none", "headwise", "elementwise"])
@pytest.mark.parametrize("attention", ["sdpa", "eager", NAME])
def test_losses_and_gradients_are_those_of_an_explicit_mask(attention, gate):
    """Against a mask given as a tensor, which hides the padding too, and torch's losses; transformers' own teacher."""
    distiller, data = with_attention(attention, gate=gate), batch()
    theirs, teacher = copy.deepcopy(distiller.student), stock_twin(distiller.teacher, "eager")
    theirs.set_attn_implementation("eager")
    tokens = data.tokens
    assert len(set(tokens.lengths)) > 1  # so that there is padding
    mask, used = explicit_mask(tokens.lengths, tokens.inputs.shape[1]), tokens.labels != IGNORED
    given = {"input_features": data.features, "decoder_input_ids": tokens.inputs, "decoder_attention_mask": mask}
    logits, taught = theirs(**given).logits[used], teacher(**given).logits[used].detach()
    ce = nn.functional.cross_entropy(logits, tokens.labels[used])
    kl = (
        4
        * nn.functional.kl_div(
            *(torch.log_softmax(z / 2, -1) for z in (logits, taught)), log_target=True, reduction="sum"
        )
        / used.sum()
    )
    (ce + 0.8 * kl).backward()
    found = distiller.step(0, [data]).read()
    assert (found.ce, found.kl) == pytest.approx((ce.item(), kl.item()), rel=1e-5)
    for name, gradient in gradients(distiller).items():
        expected = theirs.get_parameter(name).grad
        torch.testing.assert_close(gradient, expected, atol=2e-5, rtol=1e-3, msg=name)
