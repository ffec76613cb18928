"""Losses, one optimiser step, and the schedule."""

import copy
from dataclasses import replace

import pytest
import torch
from support.tiny import TEXTS, gated_model
from support.training_batch import batch, gradients, make_distiller
from torch.distributions import Categorical, kl_divergence
from transformers import get_scheduler

from whisperq.data.tokens import IGNORED
from whisperq.errors import TrainingError
from whisperq.training import losses
from whisperq.training.loop import Distiller, autocast_dtype, learning_rate
from whisperq.training.losses import Head, Weighting, distillation_sums
from whisperq.training_options import DistillConfig

pytestmark = pytest.mark.slow

POSITIONS = "model.encoder.embed_positions.weight"


def heads(seed: int, width: int, vocabulary: int = 301, tokens: int = 37) -> Head:
    generator = torch.Generator().manual_seed(seed)
    shapes = (tokens, width), (vocabulary, width)
    return Head(*(torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
@pytest.mark.parametrize("chunk", [1, 1000, 2**24])
def test_the_chunked_loss_and_its_gradients_are_autograds(temperature, chunk, monkeypatch):
    """Against torch's own losses on whole logits, in float64; 37 tokens in chunks of 1, 3 and all."""
    monkeypatch.setitem(losses.CHUNK_ELEMENTS, "cpu", chunk)
    student, teacher = heads(0, 8), heads(1, 5)
    labels = torch.randint(0, 301, (37,), generator=torch.Generator().manual_seed(2))
    loss, sums = distillation_sums(student, teacher, labels, Weighting(0.7, 0.8, temperature))
    (loss * 0.5).backward()
    found = [student.hidden.grad.clone(), student.vocabulary.grad.clone()]
    student.hidden.grad = student.vocabulary.grad = None

    logits, taught = (h.hidden @ h.vocabulary.T for h in (student, teacher))
    ce = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    kl = temperature**2 * kl_divergence(*(Categorical(logits=z / temperature) for z in (taught.detach(), logits))).sum()
    (0.5 * (0.7 * ce + 0.8 * kl)).backward()
    torch.testing.assert_close(sums, torch.stack([ce, kl]).detach())
    torch.testing.assert_close(found, [student.hidden.grad, student.vocabulary.grad])
    assert teacher.hidden.grad is None and teacher.vocabulary.grad is None


def test_no_labelled_token_is_no_loss_and_no_gradient():
    student, teacher = heads(0, 8, tokens=0), heads(1, 5, tokens=0)
    loss, sums = distillation_sums(student, teacher, torch.zeros(0, dtype=torch.long), Weighting())
    loss.backward()
    assert loss.item() == 0 and not sums.any() and not student.vocabulary.grad.any()


def test_padding_changes_nothing():
    one, other = make_distiller(), make_distiller()
    padded = batch()
    tokens = replace(
        padded.tokens,
        inputs=torch.nn.functional.pad(padded.tokens.inputs, (0, 5), value=7),
        labels=torch.nn.functional.pad(padded.tokens.labels, (0, 5), value=IGNORED),
    )
    expected, found = one.step(0, [padded]).read(), other.step(0, [replace(padded, tokens=tokens)]).read()
    assert found.as_dict() == pytest.approx(expected.as_dict(), rel=1e-5)


@pytest.mark.parametrize("step, expected", [(0, 0.25), (1, 0.5), (3, 1.0), (4, 1.0), (7, 0.5), (9, 1 / 6), (10, 0.0)])
def test_learning_rate_schedule(step, expected):
    config = DistillConfig(learning_rate=2.0, warmup_steps=4, max_steps=10)
    assert learning_rate(step, config) == pytest.approx(2.0 * expected)


def test_no_warm_up():
    config = DistillConfig(learning_rate=1.0, warmup_steps=0, max_steps=4)
    assert [learning_rate(s, config) for s in range(4)] == [1.0, 0.75, 0.5, 0.25]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_schedules_are_transformers_own(schedule):
    config = DistillConfig(learning_rate=0.5, warmup_steps=3, max_steps=20, schedule=schedule)
    name = {"constant": "constant_with_warmup"}.get(schedule, schedule)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    theirs, expected = get_scheduler(name, optimizer, num_warmup_steps=3, num_training_steps=20), []
    for _ in range(20):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    # Theirs begins the warm-up with a step at rate zero, ours ends it a step earlier.
    ours = [learning_rate(s, config) for s in range(20)]
    assert ours[:2] == pytest.approx(expected[1:3]) and ours[3:] == pytest.approx(expected[3:])


@pytest.mark.parametrize("micro", [1, 2])
def test_micro_batches_change_nothing(micro):
    whole, parts = make_distiller(), make_distiller()
    one = whole.step(0, [batch()]).read()
    many = parts.step(0, [batch(i, i + micro) for i in range(0, 4, micro)]).read()
    assert many.as_dict() == pytest.approx(one.as_dict(), rel=1e-4)
    assert (one.tokens, one.step) == (sum(len(t) + 5 for t in TEXTS), 1)
    expected = gradients(whole)
    for name, gradient in gradients(parts).items():
        torch.testing.assert_close(gradient, expected[name], atol=2e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_a_step_is_plain_torchs(clip):
    """Loss, gradient norm and new weights against a loop written with torch alone."""
    # an epsilon so large that gradients near zero do not become steps of full size
    options = {"ce_weight": 0.7, "kl_weight": 0.8, "weight_decay": 0.1, "learning_rate": 1e-3, "epsilon": 1e-3}
    distiller = make_distiller(max_grad_norm=clip, **options)
    student, teacher = copy.deepcopy(distiller.student), copy.deepcopy(distiller.teacher)
    trained = [p for n, p in student.named_parameters() if n != POSITIONS]
    optimizer = torch.optim.AdamW(trained, lr=1e-3 * 0.9, betas=(0.99, 0.999), eps=1e-3, weight_decay=0.1)
    data = batch()
    given = {"input_features": data.features, "decoder_input_ids": data.tokens.inputs}
    used = data.tokens.labels != IGNORED
    ours, theirs = student(**given).logits[used], teacher(**given).logits[used].detach()
    ce = torch.nn.functional.cross_entropy(ours, data.tokens.labels[used])
    kl = 4 * kl_divergence(Categorical(logits=theirs / 2), Categorical(logits=ours / 2)).mean()
    (0.7 * ce + 0.8 * kl).backward()
    norm = torch.nn.utils.clip_grad_norm_(trained, clip or 1e9)
    optimizer.step()

    metrics = distiller.step(1, [data]).read()
    expected = {"ce": ce, "kl": kl, "loss": 0.7 * ce + 0.8 * kl, "gradient_norm": norm, "learning_rate": 1e-3 * 0.9}
    for name, value in expected.items():
        assert getattr(metrics, name) == pytest.approx(float(torch.as_tensor(value).detach())), name
    for (name, parameter), other in zip(distiller.student.named_parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(parameter, other, atol=1e-5, rtol=1e-4, msg=name)


def test_the_student_learns_all_but_positions_and_the_teacher_nothing():
    distiller = make_distiller()
    student, teacher = (copy.deepcopy(m.state_dict()) for m in (distiller.student, distiller.teacher))
    distiller.step(0, [batch()])
    changed = {n for n, p in distiller.student.named_parameters() if not torch.equal(p, student[n])}
    assert changed == {n for n, _ in distiller.student.named_parameters()} - {POSITIONS}
    assert all(torch.equal(t, teacher[n]) for n, t in distiller.teacher.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in distiller.teacher.parameters())


def test_the_teacher_is_in_evaluation_mode_and_the_student_in_training():
    student, teacher = gated_model(seed=1), gated_model(seed=2).train()
    distiller = Distiller(student, teacher, DistillConfig(), torch.float32, 0)
    distiller.step(0, [batch()])
    assert student.training and not teacher.training


def test_the_loss_falls():
    distiller = make_distiller(learning_rate=3e-3, max_steps=1000)
    losses = [distiller.step(i, [batch()]).read().loss for i in range(12)]
    assert losses[-1] < 0.7 * losses[0]


def test_dropout_is_a_function_of_seed_and_step():
    def loss(seed: int, number: int) -> float:
        return make_distiller(seed, dropout=0.3).step(number, [batch()]).read().loss

    assert loss(0, 0) == loss(0, 0)
    assert len({loss(0, 0), loss(0, 1), loss(1, 0)}) == 3


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_every_layer_learns_in_every_step(part):
    """What a step leaves out has no gradient, for which other processes wait, and nothing to go on from."""
    whole, dropping = make_distiller(), make_distiller(**{f"{part}_layerdrop": 0.9})
    for distiller in (whole, dropping):
        distiller.step(0, [batch()])
    expected, found = gradients(whole), gradients(dropping)
    assert found.keys() == expected.keys() == whole.trained.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    whole.load_optimizer_state(dropping.optimizer_state())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_the_utterances_and_trains_nothing(bad):
    distiller = make_distiller()
    before = copy.deepcopy(distiller.student.state_dict())
    data = batch()
    data.features[2, 3, 7] = bad
    with pytest.raises(TrainingError, match="step 5: .*u0, u1, u2, u3"):
        distiller.step(4, [data]).read()
    assert all(torch.equal(t, before[n]) for n, t in distiller.student.state_dict().items())


def test_bfloat16_is_near_float32():
    full, half = make_distiller(), make_distiller()
    half.autocast = autocast_dtype("bfloat16", "cpu")
    expected, metrics = full.step(0, [batch()]).read(), half.step(0, [batch()]).read()
    assert metrics.loss != expected.loss
    assert metrics.loss == pytest.approx(expected.loss, rel=0.05)
    assert all(p.dtype == torch.float32 for p in half.student.parameters())


def test_two_runs_of_one_seed_end_in_the_same_bits():
    """With several threads, which sum scattered gradients in any order if they are let."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        ends = []
        for _ in range(2):
            distiller = make_distiller()
            for step in range(4):
                distiller.step(step, [batch()])
            ends.append([p.detach().clone() for p in distiller.student.parameters()])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    assert not torch.are_deterministic_algorithms_enabled()


def test_gradient_checkpointing_computes_the_same_twice():
    plain, thrifty = make_distiller(), make_distiller(recompute=True)
    runs = []
    for distiller in (plain, thrifty):
        (layer,) = distiller.student.model.encoder.layers
        layer.fc1.register_forward_hook(lambda *_, whose=distiller: runs.append(whose))
    expected, found = plain.step(0, [batch()]).read(), thrifty.step(0, [batch()]).read()
    assert found.as_dict() == pytest.approx(expected.as_dict(), rel=1e-5)
    assert (runs.count(plain), runs.count(thrifty)) == (1, 2)
    for name, gradient in gradients(thrifty).items():
        torch.testing.assert_close(gradient, gradients(plain)[name], atol=1e-6, rtol=1e-4, msg=name)


def frozen_pair(**changes) -> Distiller:
    """Student and teacher with one encoder; its gates, if any, are open."""
    teacher = gated_model("none", seed=2)
    student = gated_model("none", seed=3)
    student.model.encoder.load_state_dict(teacher.model.encoder.state_dict())
    config = DistillConfig(**{"freeze_encoder": True, "warmup_steps": 0, "max_steps": 10} | changes)
    return Distiller(student, teacher, config, torch.float32, 0)


def test_a_frozen_encoder_learns_nothing_and_the_decoder_all():
    distiller = make_distiller(freeze_encoder=True)
    before = copy.deepcopy(distiller.student.state_dict())
    distiller.step(0, [batch()]).read()
    for name, tensor in distiller.student.state_dict().items():
        assert torch.equal(tensor, before[name]) == name.startswith("model.encoder."), name


def test_one_encoder_for_both_runs_once_and_changes_nothing():
    shared, apart = frozen_pair(), frozen_pair()
    assert shared.pair.shares_encoder and not make_distiller(freeze_encoder=True).pair.shares_encoder
    apart.pair.shares_encoder = False
    runs = []
    for distiller in (shared, apart):
        for model in (distiller.student, distiller.teacher):
            model.model.encoder.register_forward_hook(lambda *_, whose=distiller: runs.append(whose))
    expected, found = apart.step(0, [batch()]).read(), shared.step(0, [batch()]).read()
    assert found.as_dict() == pytest.approx(expected.as_dict(), rel=1e-5)
    assert (runs.count(shared), runs.count(apart)) == (1, 2)


def test_an_encoder_that_is_trained_is_never_shared():
    assert not frozen_pair(freeze_encoder=False).pair.shares_encoder


def test_compiled_models_compute_the_same():
    plain, compiled = (make_distiller(teacher_layers=1, compile=c) for c in (False, True))
    for number in range(2):
        expected, found = (d.step(number, [batch(number, 4)]).read() for d in (plain, compiled))
        assert found.as_dict() == pytest.approx(expected.as_dict(), rel=1e-3)
    assert compiled.student.state_dict().keys() == plain.student.state_dict().keys()


def test_the_optimisers_state_is_taken_up_where_it_was():
    one, other = make_distiller(), make_distiller()
    for number in range(2):
        one.step(number, [batch()])
    other.student.load_state_dict(one.student.state_dict())
    other.load_optimizer_state({k: v.clone() for k, v in one.optimizer_state().items()})
    for distiller in (one, other):
        distiller.step(2, [batch()])
    assert all(torch.equal(a, b) for a, b in zip(one.student.parameters(), other.student.parameters(), strict=True))
    with pytest.raises(KeyError):
        other.load_optimizer_state({})
