"""wav2vec 2.0 with a CTC head for the benchmark: its published sizes, random weights, and noise as input."""

import json
from dataclasses import dataclass
from pathlib import Path

RATE, SECONDS = 16_000, 10  # samples a second, seconds of every utterance
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "|")
LETTERS = (*SPECIAL, *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'")  # as many as in the published vocabulary


@dataclass(frozen=True)
class CtcSize:
    layers: int
    width: int
    heads: int
    channels: int = 512  # of each of the seven convolutions

    family = "ctc"

    def config(self) -> dict:
        """The keyword arguments of a wav2vec 2.0 configuration; kernels, strides and norms are its defaults, base's."""
        return {
            "vocab_size": len(LETTERS), "hidden_size": self.width, "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads, "intermediate_size": 4 * self.width, "conv_dim": [self.channels] * 7,
        }  # fmt: skip

    def listen(self, model, seed: int) -> None:
        """Run the network once, on noise."""
        model(random_waveforms(1, seed))


CTC_SIZES = {"wav2vec2-base": CtcSize(12, 768, 12), "wav2vec2-tiny": CtcSize(2, 64, 2, channels=32)}


def random_waveforms(batch: int, seed: int = 0):
    """Noise in the place of normalised speech: float32 (batch, samples)."""
    import torch

    return torch.randn(batch, SECONDS * RATE, generator=torch.Generator().manual_seed(seed))


def build_ctc(folder: Path, size: CtcSize, parts: dict[str, Path]) -> None:
    """Float32 as transformers saves it, and the processor, which exporting wants."""
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    torch.manual_seed(0)
    Wav2Vec2ForCTC(Wav2Vec2Config(**size.config())).save_pretrained(folder)
    vocabulary = folder / "vocab.json"
    vocabulary.write_text(json.dumps({letter: i for i, letter in enumerate(LETTERS)}))
    Wav2Vec2CTCTokenizer(str(vocabulary)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=RATE).save_pretrained(folder)


def build_ctc_bf16(folder: Path, size: CtcSize, parts: dict[str, Path]) -> None:
    import torch
    from transformers import Wav2Vec2ForCTC

    Wav2Vec2ForCTC.from_pretrained(parts["stock"], dtype=torch.bfloat16).save_pretrained(folder)
