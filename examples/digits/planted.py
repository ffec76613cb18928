"""The model with planted outliers: one channel of every layer norm's output is `factor` times as large.

    python planted.py MODEL FACTOR OUT

    norm'(x)[c] = s norm(x)[c],   W'[:, c] = W[:, c] / s      for every W that takes the norm in

s: `factor`, a power of two, so that no product and no sum is rounded otherwise: the same function, bit for bit.
The readers of a block's norm are q, k, v and gate, or fc1; those of the encoder's last norm, all cross k and v.
The decoder's last norm stays: its reader is the embedding's table, which the decoder's input shares. In other
words: SmoothQuant (arXiv 2211.10438, equation 3) with one channel's scale 1/s, run backwards.
"""

import argparse
from pathlib import Path

import torch
from torch import nn

from whisperq.models.loading import load_model, load_processor, save_model

CHANNEL = 7


@torch.no_grad()
def plant(model: nn.Module, factor: float, channel: int = CHANNEL) -> None:
    """Changes a gated Whisper in place; its gates must read all channels in one layer."""
    for norm, readers in norms(model):
        for parameter in norm.parameters():  # weight and bias (d_model,)
            parameter[channel] *= factor
        for reader in readers:
            reader.weight[:, channel] /= factor


def norms(model: nn.Module) -> list[tuple[nn.Module, list[nn.Linear]]]:
    """Every norm with the layers that take it in."""
    found = []
    encoder, decoder = model.model.encoder, model.model.decoder
    for layer in [*encoder.layers, *decoder.layers]:
        own = layer.self_attn
        found.append((layer.self_attn_layer_norm, [own.q_proj, own.k_proj, own.v_proj, *gates(own)]))
        found.append((layer.final_layer_norm, [layer.fc1]))
    for layer in decoder.layers:
        found.append((layer.encoder_attn_layer_norm, [layer.encoder_attn.q_proj, *gates(layer.encoder_attn)]))
    crosses = [layer.encoder_attn for layer in decoder.layers]
    found.append((encoder.layer_norm, [p for cross in crosses for p in (cross.k_proj, cross.v_proj)]))
    return found


def gates(attention: nn.Module) -> list[nn.Linear]:
    if attention.gate is None:
        return []
    assert not attention.gate.by_head, "this gate reads a channel of every head with one weight"
    return [attention.gate.linear]


def planted_folder(source: Path, factor: float, out: Path) -> Path:
    """A model folder that whisperq's commands take, with outliers."""
    model = load_model(source, torch.float32, "cpu")
    plant(model, factor)
    save_model(model, load_processor(source), out)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("factor", type=float, help="a power of two")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    planted_folder(args.model, args.factor, args.out)


if __name__ == "__main__":
    main()
