"""What only a GPU can show; skipped where there is none."""

import pytest
import torch
from support.exported import quantized_folder
from support.tiny import PROMPT, features, gated_model
from support.training_batch import batch, make_distiller

from whisperq.data.batches import Batch
from whisperq.models.loading import load_config
from whisperq.options import Execution
from whisperq.runtime.int8.open import open_runtime
from whisperq.runtime.int8.whisper import Int8Runtime

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def on_gpu(**changes):
    distiller = make_distiller(**changes)
    for model in (distiller.student, distiller.teacher):
        model.to("cuda")
    distiller.device = "cuda"
    return distiller


def moved() -> Batch:
    data = batch()
    return Batch(data.features.cuda(), data.tokens, data.utterances)


def test_a_step_is_the_cpus():
    expected, found = make_distiller().step(0, [batch()]).read(), on_gpu().step(0, [moved()]).read()
    assert found.as_dict() == pytest.approx(expected.as_dict(), rel=1e-3)


@pytest.mark.parametrize("changes", [{}, {"range_weight": 0.1}, {"autocast": torch.bfloat16, "max_grad_norm": 1.0}])
def test_a_step_waits_for_nothing(changes):
    """The host runs ahead of the device until somebody reads the figures; see test_no_waiting.py for CPUs."""
    distiller, data = on_gpu(**changes), moved()
    distiller.step(0, [data]).read()  # allocates, and compiles what is compiled when first used
    torch.cuda.set_sync_debug_mode("error")
    try:
        step = distiller.step(1, [data])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert step.read().loss > 0


def test_int8_runs_there_with_recorded_steps(tmp_path):
    """Opening it has compared encoder and steps with the CPU's already; here each recorded step with a launched one."""
    folder = quantized_folder(gated_model(), tmp_path / "model")
    runtime = open_runtime(folder, "int8", load_config(folder), Execution(runtime="int8"), "cuda")
    assert runtime.kernels.signed and not runtime.notices
    plain = Int8Runtime.load(folder, "cpu")
    recorded, launched, other = (one.encode(features(2)) for one in (runtime, runtime, plain))
    launched.branched = True
    for tokens in (torch.tensor([PROMPT, PROMPT]), *torch.arange(8).view(4, 2, 1)):
        found, expected = (runtime.decode_step(tokens, state).clone() for state in (recorded, launched))
        torch.testing.assert_close(found, expected)
        there = plain.decode_step(tokens, other)
        assert float((found.cpu() - there).norm() / there.norm()) < 0.1
    assert runtime.replays and recorded.replay is not None and launched.replay is None


def test_deterministic_runs_end_in_the_same_bits():
    ends = []
    for _ in range(2):
        distiller = on_gpu(deterministic=True)
        for number in range(4):
            distiller.step(number, [moved()])
        ends.append([p.detach().clone() for p in distiller.student.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
