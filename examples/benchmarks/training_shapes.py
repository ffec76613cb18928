"""The teachers and students that are trained, their windows, and how many operations a window is.

Multiply-accumulates (MACs) of one window through one model, M mel bins, S positions, d width, f = 4d, h heads where
gates have one weight row each (else 0), V vocabulary, n labelled tokens, L layers:

    encoder      2S * 3 M d + S * 3 d^2 + L_enc * S (4 d^2 + 2 d f + 2 S d + h d)
    cross        L_dec * S * 2 d^2                                  keys and values of cross-attention
    decoder      L_dec * n (6 d^2 + 2 d f + 2 n d + 2 S d + 2 h d)
    vocabulary   n V d

A step is 2 operations for each MAC of the teacher, and 6 for each of the student: forward, and backward twice that.
No tokens are padded, causal attention counts in full, and recomputing (gradient checkpointing) counts nothing.
Of a frozen encoder the forward pass alone counts; cross-attention's keys and values then need no gradient of
their input, which leaves 4.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

WHISPER = 51865  # vocabulary
POSITIONS_PER_S, FRAMES_PER_POSITION, MEL_BINS = 50, 2, 80
FFN = 4  # times the width


@dataclass(frozen=True)
class Pair:
    """Layers are (encoder, decoder); batches are (windows of a step, of a forward pass) by device."""

    teacher: tuple[int, int]
    student: tuple[int, int]
    width: int
    heads: int
    vocabulary: int
    window_s: int
    tokens: tuple[int, int]  # the least and most that a window's labels count
    batches: dict[str, tuple[int, int]]

    @property
    def positions(self) -> int:
        return POSITIONS_PER_S * self.window_s

    def config(self, layers: tuple[int, int], gate: str) -> dict:
        """The keyword arguments of a gated Whisper's configuration."""
        end = self.vocabulary - 1
        return {
            "gate": gate, "vocab_size": self.vocabulary, "num_mel_bins": MEL_BINS, "d_model": self.width,
            "encoder_layers": layers[0], "decoder_layers": layers[1],
            "encoder_attention_heads": self.heads, "decoder_attention_heads": self.heads,
            "encoder_ffn_dim": FFN * self.width, "decoder_ffn_dim": FFN * self.width,
            "max_source_positions": self.positions, "decoder_start_token_id": end,
            "pad_token_id": end, "bos_token_id": end, "eos_token_id": end,
        }  # fmt: skip


# English runs at two to three words a second, 1.3 tokens each: 60 to 200 tokens in 30 s. Digits are spelt in bytes.
SPEECH = (60, 200)
PAIRS = {
    "large-v2": Pair((32, 32), (16, 2), 1280, 20, WHISPER, 30, SPEECH, {"cuda": (64, 16), "cpu": (2, 1)}),
    "small": Pair((12, 12), (6, 2), 768, 12, WHISPER, 30, SPEECH, {"cuda": (64, 32), "cpu": (2, 2)}),
    "tiny.en": Pair((4, 4), (4, 2), 384, 6, WHISPER - 1, 30, (25, 65), {"cuda": (64, 64), "cpu": (16, 8)}),
    "digits": Pair((6, 3), (3, 2), 160, 5, 466, 4, (12, 47), {"cuda": (16, 16), "cpu": (16, 16)}),
    "tiny": Pair((2, 2), (1, 1), 32, 2, 64, 1, (4, 12), {"cuda": (4, 2), "cpu": (4, 2)}),
}
HIDDEN = ("tiny",)  # measures nothing; it tests this benchmark


@dataclass(frozen=True)
class Macs:
    encoder: int
    cross: int
    decoder: int
    vocabulary: int

    @property
    def total(self) -> int:
        return self.encoder + self.cross + self.decoder + self.vocabulary


def macs(pair: Pair, layers: tuple[int, int], gated: bool, tokens: int) -> Macs:
    """One window's forward pass; headwise gates."""
    d, s, n, h = pair.width, pair.positions, tokens, pair.heads if gated else 0
    mlp = 2 * FFN * d * d
    return Macs(
        encoder=FRAMES_PER_POSITION * s * 3 * MEL_BINS * d + s * 3 * d * d
        + layers[0] * s * (4 * d * d + mlp + 2 * s * d + h * d),
        cross=layers[1] * s * 2 * d * d,
        decoder=layers[1] * n * (6 * d * d + mlp + 2 * n * d + 2 * s * d + 2 * h * d),
        vocabulary=n * pair.vocabulary * d,
    )  # fmt: skip


def step_flops(pair: Pair, lengths: Iterable[int], encoder_frozen: bool = False) -> int:
    """Useful operations of windows with so many labelled tokens: teacher's forward, student's forward and backward."""
    whole = 0
    for tokens in lengths:
        taught, learnt = macs(pair, pair.teacher, False, tokens), macs(pair, pair.student, True, tokens)
        whole += 2 * taught.total + 6 * learnt.total
        if encoder_frozen:
            whole -= 4 * learnt.encoder + 2 * learnt.cross
    return whole


def window_ids(pair: Pair, number: int) -> list[int]:
    """The text of window `number`: random, and the same for everybody; one token more than it has labels."""
    random = Random(number)
    return [random.randrange(pair.vocabulary) for _ in range(random.randint(*pair.tokens) + 1)]


def window_tokens(pair: Pair, number: int) -> int:
    return len(window_ids(pair, number)) - 1


def random_features(pair: Pair, batch: int) -> Tensor:
    """Noise in the range of log-mel features, about -1 to 1.5: float32 (batch, mel bins, frames)."""
    import torch

    frames = FRAMES_PER_POSITION * pair.positions
    return 0.5 * torch.randn(batch, MEL_BINS, frames, generator=torch.Generator().manual_seed(0))


def padded(sequences: list[list[int]], end: int, ignored: int) -> tuple[Tensor, Tensor]:
    """Decoder's inputs and labels, (batch, longest), as `data.tokens.Codec` makes them."""
    import torch

    longest = max(map(len, sequences)) - 1
    inputs, labels = torch.full((len(sequences), longest), end), torch.full((len(sequences), longest), ignored)
    for row, sequence in enumerate(sequences):
        inputs[row, : len(sequence) - 1] = torch.tensor(sequence[:-1])
        labels[row, : len(sequence) - 1] = torch.tensor(sequence[1:])
    return inputs, labels
