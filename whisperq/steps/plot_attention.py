"""What one attention head looks at: probabilities, values and their product (the paper's Figure 1)."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from whisperq import artifact
from whisperq.config import Source
from whisperq.data.batches import Batch, teacher_forced
from whisperq.data.sources import read_all
from whisperq.data.utterance import Utterance
from whisperq.errors import InputError, UsageError
from whisperq.hashing import bytes_sha256
from whisperq.kinds.observations import Attention
from whisperq.models.loading import require_whisper
from whisperq.models.sites import Watcher, absolute, model_sites, watch
from whisperq.options import PlotAttentionConfig
from whisperq.report.attention import plot_grid, plot_head
from whisperq.report.attention_picture import AttentionPicture, Axis
from whisperq.runtime.open import OpenedModel, open_model, with_hypotheses
from whisperq.scoring.shares import role_shares
from whisperq.settings import Context

ARRAYS = "attention.npz"


def plot_attention(
    model: Path,
    data: Sequence[Source],
    utterance: str | None,
    out: Path,
    config: PlotAttentionConfig,
    context: Context,
) -> artifact.Artifact:
    """Draw one head of one attention block (or a grid of all) for one utterance, and save the arrays.

    The utterance is a file, an id of the data, or by default its first. The decoder is teacher-forced on the
    reference, or on the greedy hypothesis where there is none. Raises UsageError and InputError.
    """
    require_whisper(model)
    chosen = find_utterance(utterance, data)
    inputs = {"model": artifact.reference(model), "data": utterance_reference(chosen)}
    with (
        artifact.create(out, "attention", "plot-attention", context.settings(config), inputs, context.force) as draft,
        open_model(model, context) as opened,
    ):
        block = block_name(config.layer, opened)
        heads = choose_heads(config.head, block, opened)
        chosen = with_hypotheses(opened, [chosen], size=1)[0]
        picture = look(opened, block, chosen)
        figures = (
            plot_grid(picture, draft.folder) if config.head == "all" else plot_head(picture, heads[0], draft.folder)
        )
        probs, values = picture.probs[heads], picture.values[heads]
        np.savez_compressed(draft.folder / ARRAYS, probs=probs, values=values, product=probs @ values)
        results: Attention = {
            "block": block,
            "heads": heads,
            "utterance": chosen.id,
            "text": chosen.text or "",
            "shape": list(picture.probs.shape),
            "shares": {
                str(head): role_shares(picture.probs[head], picture.queries.roles, picture.keys.roles) for head in heads
            },
            "figures": figures,
        }
        draft.results |= results
    return artifact.load(out)


def find_utterance(name: str | None, data: Sequence[Source]) -> Utterance:
    """A recording's path, an id in the data, or the data's first utterance."""
    if name is not None and os.path.isfile(name):  # unlike Path's it bears ids of any length
        return Utterance(Path(name).stem, name, None, None, origin=name)
    if not data:
        raise InputError("there is no test data in the configuration; name a recording with --utterance FILE")
    utterances = read_all(data, skip_bad=False).utterances
    if name is None:
        return utterances[0]
    for utterance in utterances:
        if utterance.id == name:
            return utterance
    raise InputError(f"{name} is neither a recording nor the id of a test utterance")


def utterance_reference(utterance: Utterance) -> dict[str, str]:
    """The recording by its content, the part of it, and the text that it is drawn with."""
    content = utterance.audio if isinstance(utterance.audio, bytes) else Path(utterance.audio).read_bytes()
    part = json.dumps([utterance.id, utterance.offset, utterance.duration, utterance.text])
    return {"path": utterance.origin, "sha256": bytes_sha256(content + part.encode())}


def block_name(layer: str, opened: OpenedModel) -> str:
    """`dec.-1` -> `dec.1`; raises UsageError for what is no attention block."""
    sites = model_sites(opened.model)
    block = absolute(layer, sites)
    if f"{block}.probs" not in sites:
        blocks = [a.removesuffix(".probs") for a in sites if a.endswith(".probs")]
        raise UsageError(f"no attention block is named {layer!r}; there are {', '.join(blocks)}")
    return block


def choose_heads(head: str, block: str, opened: OpenedModel) -> list[int]:
    config = opened.model.config
    count = config.encoder_attention_heads if block.startswith("enc") else config.decoder_attention_heads
    if head == "all":
        return list(range(count))
    if not head.isdecimal() or int(head) >= count:
        raise UsageError(f"--head must be 0 to {count - 1} or all, not {head!r}")
    return [int(head)]


def look(opened: OpenedModel, block: str, utterance: Utterance) -> AttentionPicture:
    """Everything that the pictures of one block show."""
    batch = opened.loader.labelled([utterance])
    if batch is None:
        raise InputError(f"{utterance.origin} cannot be used")
    probs, values = observe(opened, block, batch)
    queries, keys = axes(block, opened, batch, probs.shape[1:])
    return AttentionPicture(block, probs, values, queries, keys, utterance.id, batch.seconds)


@torch.inference_mode()
def observe(opened: OpenedModel, block: str, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (heads, queries, keys) and values (heads, keys, d_head); watching forces the explicit path."""
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Watcher:
        return lambda x: seen.update({name: x[0].float().cpu()})

    watchers = {f"{block}.{name}": keep(name) for name in ("probs", "v_proj")}
    with watch(opened.model, model_sites(opened.model), watchers):
        teacher_forced(opened.model, batch, opened.loader.device)
    heads = seen["probs"].shape[0]
    values = seen["v_proj"].unflatten(-1, (heads, -1)).transpose(0, 1)
    return seen["probs"].numpy(), values.numpy()


def axes(block: str, opened: OpenedModel, batch: Batch, counts: tuple[int, int]) -> tuple[Axis, Axis]:
    """Queries' and keys' axes: decoded tokens for the decoder's side, seconds for the encoder's, and their roles."""
    extractor = opened.processor.feature_extractor
    frame = 2 * extractor.hop_length / extractor.sampling_rate  # the second convolution halves the frames
    time = Axis("time (s)", None, frame)
    tokens = Axis("token", opened.loader.token_labels(batch, 0))
    queries = time if block.startswith("enc") else tokens
    keys = time if block.endswith("cross") else queries
    roles = [
        opened.loader.roles(batch, 0, "tokens" if axis.labels else "", count)
        for axis, count in zip((queries, keys), counts, strict=True)
    ]
    return replace(queries, roles=roles[0]), replace(keys, roles=roles[1])
