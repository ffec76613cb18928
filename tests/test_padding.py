"""Padding that is not computed: what is left equals the full window where it must, in batches and alone."""

import pytest
import torch
import torch.nn.functional as F
from support.exported import CPU, quantized_folder
from support.tiny import features, gated_model, stock_twin

from whisperq.runtime.int8.whisper import Int8Runtime
from whisperq.runtime.open import open_model
from whisperq.runtime.padding import Short as ShortOf
from whisperq.runtime.padding import groups, guarded, rows_of, speech_frames, strange
from whisperq.runtime.pytorch import PyTorchRuntime

WINDOW = 50  # rows of the tiny models


def with_speech(frames: list[int], seed: int = 0) -> torch.Tensor:
    """Random features whose frames from each utterance's number on are padding, at levels of their own."""
    x = features(len(frames), seed)
    for i, count in enumerate(frames):
        x[i, :, count:] = x[i, :, :count].min() if count else -1.5
    return x


def padding() -> torch.Tensor:
    """The window whose state is kept: padding behind something short."""
    return with_speech([20], seed=3)


def Short(runtime, tail: float) -> ShortOf:
    return ShortOf(runtime, padding, tail)


@pytest.mark.parametrize("frames", [0, 1, 37, 98, 99, 100])
def test_the_last_frames_at_the_floor_are_padding(frames):
    assert speech_frames(with_speech([frames, 50])) == [frames, 50]


def test_a_quiet_place_within_speech_is_no_padding():
    x = with_speech([80])
    x[:, :, 30:50] = x.min()
    assert speech_frames(x) == [80]


@pytest.mark.parametrize(
    ("frames", "tail", "rows"),
    [
        (0, 0.0, 1500), (1, 0.0, 25), (2, 0.5, 50), (100, 0.5, 75), (101, 1.0, 125), (2990, 1.0, 1500),
        (3000, 30.0, 1500),
    ],
)  # fmt: skip
def test_rows_are_half_the_frames_and_the_tail_in_steps(frames, tail, rows):
    assert rows_of(frames, tail, 1500) == rows


def test_utterances_of_as_many_rows_are_one_batch():
    assert list(groups([75, 25, 75])) == [(25, [1]), (75, [0, 2])]


def logits(runtime, x: torch.Tensor, steps: int = 4) -> torch.Tensor:
    """(steps, batch, vocabulary) of tokens that are the same in every utterance."""
    state = runtime.encode(x)
    return torch.stack([runtime.decode_step(torch.full((len(x), 1), 5 + s), state) for s in range(steps)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return quantized_folder(gated_model(), tmp_path_factory.mktemp("padding") / "model")


@pytest.fixture(scope="module", params=["float", "emulated", "int8", "int8 in bf16"])
def runtime(request, folder):
    if request.param == "float":
        yield PyTorchRuntime(gated_model())
    elif request.param == "emulated":
        with open_model(folder, CPU) as opened:
            yield opened.runtime
    elif "bf16" not in request.param:
        yield Int8Runtime.load(folder, "cpu", "float32")
    elif torch.ops.mkldnn._is_mkldnn_bf16_supported():
        yield Int8Runtime.load(folder, "cpu", "bfloat16")
    else:
        pytest.skip("this CPU multiplies no bf16")


@torch.inference_mode()
def test_a_tail_to_the_windows_end_is_the_full_window(runtime):
    x = with_speech([0, 10, 60, 100])
    assert torch.equal(logits(Short(runtime, tail=1.0), x), logits(runtime, x))


@torch.inference_mode()
def test_a_recording_that_nearly_fills_the_window_is_heard_as_in_full(runtime):
    x = with_speech([99, 100])
    assert torch.equal(logits(Short(runtime, tail=0.0), x), logits(runtime, x))


@torch.inference_mode()
def test_rows_one_by_one_to_the_windows_end_are_the_full_window(runtime):
    """Nothing that is kept is seen where all rows are computed."""
    x = with_speech([100, 100])
    state = runtime.encode_rows(x, [WINDOW, WINDOW], runtime.keep(padding()))
    tokens = torch.full((2, 1), 5)
    found, full = runtime.decode_step(tokens, state), runtime.decode_step(tokens, runtime.encode(x))
    torch.testing.assert_close(found, full, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_the_recording_that_is_kept_is_transcribed_as_in_full(runtime):
    found, full = (logits(one, padding()) for one in (Short(runtime, tail=0.0), runtime))
    torch.testing.assert_close(found, full, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_a_batch_of_mixed_lengths_equals_one_by_one(runtime, request):
    x = with_speech([0, 10, 45, 60, 100, 46])
    short = Short(runtime, tail=0.0)
    together, alone = logits(short, x), torch.cat([logits(short, one[None]) for one in x], dim=1)
    alike = torch.isclose(together, alone, atol=1e-4, rtol=1e-4).all(dim=2).all(dim=0)
    # Emulation adds up in float32, on some CPUs in another order for a batch: a code on a tie moves its utterance.
    assert int(alike.sum()) >= len(x) - ("emulated" in request.node.name), alike
    assert not torch.allclose(together[:, 1], logits(runtime, x)[:, 1], atol=1e-2)  # the padding was left out


def written_out(model, x: torch.Tensor, rows: int) -> torch.Tensor:
    """transformers' own blocks on the first rows, behind them keys and values of its run over padding."""
    encoder = model.model.encoder

    def embedded(features):
        y = F.gelu(encoder.conv2(F.gelu(encoder.conv1(features))))
        return y.transpose(1, 2) + encoder.embed_positions.weight

    own, beyond = embedded(x)[:, :rows], embedded(padding())
    for layer in encoder.layers:
        attention, results = layer.self_attn, []
        normed = [layer.self_attn_layer_norm(h) for h in (own, beyond)]
        seen = [torch.cat([normed[0], normed[1][:, rows:]], dim=1), normed[1]]
        for h, queries, keys in zip((own, beyond), normed, seen, strict=True):
            q, k, v = (
                project(y).unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
                for project, y in zip(
                    (attention.q_proj, attention.k_proj, attention.v_proj), (queries, keys, keys), strict=True
                )
            )
            context = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            h = h + attention.out_proj(context)
            results.append(h + layer.fc2(F.gelu(layer.fc1(layer.final_layer_norm(h)))))
        own, beyond = results
    return encoder.layer_norm(torch.cat([own, beyond[:, rows:]], dim=1))


@torch.inference_mode()
def test_it_is_what_the_equation_says_of_a_stock_whisper():
    model = gated_model("none")
    twin, x, tokens = stock_twin(model), with_speech([30]), torch.full((1, 1), 5)
    short = Short(PyTorchRuntime(model), tail=0.2)
    found = short.decode_step(tokens, short.encode(x))
    expected = twin.model.decoder(input_ids=tokens, encoder_hidden_states=written_out(twin, x, 25)).last_hidden_state
    torch.testing.assert_close(found, twin.proj_out(expected[:, -1]), atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_beams_and_their_branches_go_on_from_it(runtime):
    """Three hypotheses of each utterance that are the same go on as one does."""
    x, tokens = with_speech([10, 70]), torch.full((2, 1), 5)
    short = Short(runtime, tail=0.0)
    state = short.encode(x)
    short.decode_step(tokens, state)
    short.branch(state, torch.tensor([0, 0, 0, 1, 1, 1]))
    found = short.decode_step(torch.full((6, 1), 7), state)
    alone = short.encode(x)
    short.decode_step(tokens, alone)
    expected = short.decode_step(torch.full((2, 1), 7), alone).repeat_interleave(3, dim=0)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("ids", "seconds", "found"),
    [
        ([], 3.0, True),
        ([7, 8, 9, 10], 1.0, False),
        (list(range(30)), 3.0, True),
        (list(range(20)), 3.0, False),
        ([1, 2, 3] * 4, 10.0, True),
        ([1, 2, 3] * 3, 10.0, False),
        ([5] * 8, 10.0, True),
    ],
)
def test_nothing_too_much_and_loops_are_doubtful(ids, seconds, found):
    assert strange(ids, seconds) is found


class Spoken:
    """A runtime of which only what is read counts."""

    name = "float"


def test_what_is_doubtful_is_read_again_in_full_and_counted():
    short, x, asked = Short(Spoken(), tail=0.0), with_speech([20, 30, 100, 40]), []

    def read(some, rows):
        assert torch.equal(some, x[list(rows)])
        asked.append((list(rows), short._full))
        return [[] if i in (1, 2) and not short._full else [i] for i in rows]

    assert guarded(short, x, read, text=lambda ids: ids) == [[0], [1], [], [3]]
    assert asked == [([0, 1, 2, 3], False), ([1], True)] and short.again == 1  # the third was computed in full already


def test_without_short_nothing_is_read_again():
    assert guarded(Spoken(), with_speech([20]), lambda _, rows: [[] for _ in rows], text=lambda ids: ids) == [[]]
