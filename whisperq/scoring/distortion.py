"""How far a quantized model's logits are from the float ones, on the same tokens.

    SNR = 10 log10( sum z^2 / sum (z - z_q)^2 )                        (dB; sums over tokens and vocabulary)
    KL  = 1/T sum_t sum_v p_t(v) (log p_t(v) - log p_q,t(v))            (nats per token)

z, z_q: logits (tokens, vocabulary), float and quantized; p, p_q: their softmax; T: tokens. Both resolve what a word
error rate over a few recordings cannot. Of the two, KL sees only what matters to the choice of a word: a number
added to all of a token's logits is noise to the SNR and nothing to KL.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_CHUNK = 2**21  # logits at once: in float64, 16 MB for each of the few tensors that a chunk needs


@dataclass
class Distortion:
    """Sums over all tokens so far."""

    signal: float = 0.0  # sum z^2
    noise: float = 0.0  # sum (z - z_q)^2
    divergence: float = 0.0  # nats
    tokens: int = 0

    def update(self, exact: Tensor, quantized: Tensor) -> None:
        """Logits (tokens, vocabulary) of float and of quantized, of the same tokens."""
        if exact.shape != quantized.shape:
            raise ValueError(f"logits of {tuple(exact.shape)} and {tuple(quantized.shape)} are not of the same tokens")
        rows = max(1, _CHUNK // exact.shape[-1])
        for z, z_q in zip(exact.split(rows), quantized.split(rows), strict=True):
            self._update(z.double(), z_q.double())
        self.tokens += len(exact)

    def _update(self, z: Tensor, z_q: Tensor) -> None:
        self.signal += float(z.square().sum())
        self.noise += float((z - z_q).square().sum())
        log_p, log_q = torch.log_softmax(z, dim=-1), torch.log_softmax(z_q, dim=-1)
        self.divergence += float((log_p.exp() * (log_p - log_q)).sum())

    @property
    def snr_db(self) -> float:
        """Infinite where nothing differs, NaN where nothing was compared."""
        if self.tokens == 0:
            return math.nan
        if self.noise == 0.0:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal else -math.inf

    @property
    def kl(self) -> float:
        """Nats per token; NaN where nothing was compared."""
        return self.divergence / self.tokens if self.tokens else math.nan
