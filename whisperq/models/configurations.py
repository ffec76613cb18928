"""config.json of a model against what its family must hold, and its weights against the sizes that it claims.

Both are known in milliseconds, from the text and from the headers of the weights' files, so that nothing is built for a
model that cannot be.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whisperq.errors import InputError
from whisperq.models.headers import Held, headers
from whisperq.models.incomplete import plain_name
from whisperq.models.schemas import ID, SHARED, Claims, fields
from whisperq.models.weight_files import weight_files
from whisperq.schema import Wrong, anything, count, each, items, maybe, read_json, record, switch

# What base classes of transformers read there, about nobody's sounds or words: what a forward pass gives back, and
# classes, of which a number is enough to fill the memory. It decides nothing here.
IGNORED = frozenset(
    "return_dict use_return_dict output_attentions output_hidden_states torchscript pruned_heads problem_type "
    "num_labels id2label label2id chunk_size_feed_forward attn_implementation _attn_implementation "
    "_attn_implementation_internal experts_implementation layer_types".split()
)

IDS = "bos_token_id eos_token_id pad_token_id decoder_start_token_id no_timestamps_token_id prev_sot_token_id"
GENERATION = record({}, {
    **fields(ID, IDS),
    **fields(maybe(items(count(-1))), "suppress_tokens begin_suppress_tokens"),
    **fields(maybe(each(count())), "lang_to_id task_to_id"),
    "is_multilingual": maybe(switch),
    "alignment_heads": maybe(items(items(count(), 2))),
})  # fmt: skip


def check_content(content: Mapping[str, Any], claims: Claims) -> None:
    """Raises Wrong for a field that no model of the family can have."""
    anything(content, "")
    claims.content(content, "")


def check_values(config: Any, claims: Claims) -> None:
    """What hangs on several fields, defaults included. Raises Wrong."""
    for whole, parts in claims.divided:
        if (width := getattr(config, whole)) % (number_of := getattr(config, parts)):
            raise Wrong(f"{whole} is {width}, which {parts}, {number_of}, does not divide")
    _check_ids({name: getattr(config, name, None) for name in SHARED if name.endswith("_token_id")}, config.vocab_size)


def check_generation(folder: Path, config: Any) -> None:
    """generation_config.json, where there is one. Raises InputError."""
    path = folder / "generation_config.json"
    if not path.is_file():
        return
    content = read_json(path, GENERATION, "copy the model's own")
    named = {name: content.get(name) for name in (*IDS.split(), "lang_to_id", "task_to_id")}
    try:
        anything(content, "")
        _check_ids({k: list(v.values()) if isinstance(v, dict) else v for k, v in named.items()}, config.vocab_size)
    except Wrong as wrong:
        raise InputError(f"{path} cannot be used: {wrong}; copy the model's own") from None


def _check_ids(named: Mapping[str, Any], vocabulary: int) -> None:
    for name, ids in named.items():
        for index in ids if isinstance(ids, list | tuple) else [ids]:
            if index is not None and not 0 <= index < vocabulary:
                raise Wrong(f"{name} is {index}, but the vocabulary has {vocabulary} tokens")


def check_weights(folder: Path, config: Any, claims: Claims) -> None:
    """Layer counts and widths against the weights' headers, where there are any. Raises Wrong and InputError."""
    files = [path for path in weight_files(folder) if path.is_file()]
    held = headers(files)
    if not held:
        return
    _check_layers(held, config, claims.layers)
    by_ending = {_ending(name, claims.prefix): (name, one) for name, one in held.items()}
    for name, (ending, dim) in claims.sizes.items():
        (tensor, one), claimed = by_ending.get(ending, ("", None)), getattr(config, name)
        packed = one is not None and len(one.shape) <= max(dim, "embed" in ending)  # codes of fewer than eight bits
        if one is not None and not packed and one.shape[dim] != claimed:
            raise Wrong(f"{name} is {claimed}, but {tensor} in {one.path.name} has {one.shape[dim]}")


def _check_layers(held: Mapping[str, Held], config: Any, kinds: Mapping[str, str]) -> None:
    for name, pattern in kinds.items():
        seen = {match[1] for tensor in held if (match := re.search(rf"(?:^|\.){pattern}\.(\d+)\.", tensor))}
        if seen and len(seen) != (claimed := getattr(config, name)):
            raise Wrong(f"{name} is {claimed}, but the weights have {len(seen)}")


def _ending(name: str, prefix: str) -> str:
    """A tensor's name without the network's: as a checkpoint of the bare network has it, too."""
    return re.sub(rf"^({prefix})\.", "", plain_name(name))
