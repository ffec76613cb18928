"""Padding that is not computed: what is left equals the full window where it must, in batches and alone."""

import pytest
import torch
from tiny import features, gated_model

from whisperq.runtime.padding import SILENCE, STEP, Short, groups, rows_of, speech_frames
from whisperq.runtime.pytorch import PyTorchRuntime

WINDOW = 50  # rows of the tiny models


def with_speech(frames: list[int], seed: int = 0) -> torch.Tensor:
    """Random features whose frames from each utterance's number on are padding, at levels of their own."""
    x = features(len(frames), seed)
    for i, count in enumerate(frames):
        x[i, :, count:] = x[i, :, :count].min() if count else -1.5
    return x


@pytest.mark.parametrize("frames", [0, 1, 37, 98, 99, 100])
def test_the_last_frames_at_the_floor_are_padding(frames):
    assert speech_frames(with_speech([frames, 50])) == [frames, 50]


def test_a_quiet_place_within_speech_is_no_padding():
    x = with_speech([80])
    x[:, :, 30:50] = x.min()
    assert speech_frames(x) == [80]


@pytest.mark.parametrize(
    ("frames", "tail", "rows"),
    [(0, 0.0, 1), (0, 0.5, 25), (2, 0.5, 50), (100, 0.5, 75), (101, 1.0, 125), (2990, 1.0, 1500), (3000, 30.0, 1500)],
)
def test_rows_are_half_the_frames_and_the_tail_in_steps(frames, tail, rows):
    assert rows_of(frames, tail, 1500) == rows


def test_utterances_of_as_many_rows_are_one_batch():
    assert list(groups([75, 25, 75])) == [(25, [1]), (75, [0, 2])]


def logits(runtime, x: torch.Tensor, steps: int = 4) -> torch.Tensor:
    """(steps, batch, vocabulary) of tokens that are the same in every utterance."""
    state = runtime.encode(x)
    return torch.stack([runtime.decode_step(torch.full((len(x), 1), 5 + s), state) for s in range(steps)])


@pytest.fixture(scope="module")
def float_runtime():
    return PyTorchRuntime(gated_model(attention="sdpa"))


@torch.inference_mode()
def test_a_tail_to_the_windows_end_is_the_full_window(float_runtime):
    x = with_speech([10, 60, 100])
    assert torch.equal(logits(Short(float_runtime, tail=1.0), x), logits(float_runtime, x))


@torch.inference_mode()
def test_all_rows_computed_by_parts_are_the_full_window(float_runtime):
    x = with_speech([100, 100])
    kept = float_runtime.keep(torch.full_like(x[:1], SILENCE))
    state, full = float_runtime.encode_rows(x, [WINDOW, WINDOW], kept), float_runtime.encode(x)
    tokens = torch.full((2, 1), 5)
    torch.testing.assert_close(float_runtime.decode_step(tokens, state), float_runtime.decode_step(tokens, full))


@torch.inference_mode()
def test_silence_at_the_kept_level_is_the_full_window(float_runtime):
    x = torch.full((1, 80, 100), SILENCE)
    short = Short(float_runtime, tail=0.0)
    torch.testing.assert_close(logits(short, x), logits(float_runtime, x), atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_the_rows_beyond_are_heard_as_silence(float_runtime):
    """Rows computed with the kept ones in place: layer by layer as if written out."""
    model, x = float_runtime.model, with_speech([30])
    short = logits(Short(float_runtime, tail=0.0), x)
    assert torch.equal(short, torch.cat([logits(Short(float_runtime, tail=0.0), x[:1]) for _ in range(1)], dim=1))
    assert not torch.allclose(short, logits(float_runtime, x), atol=1e-3)
    assert model.training is False


@torch.inference_mode()
def test_a_batch_of_mixed_lengths_equals_one_by_one(float_runtime):
    x = with_speech([0, 10, 45, 60, 100, 46])
    together = logits(Short(float_runtime, tail=0.0), x)
    alone = torch.cat([logits(Short(float_runtime, tail=0.0), one[None]) for one in x], dim=1)
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    assert STEP < WINDOW
