"""Sites: names of a model's tensors, and the one way to look at them or replace them.

An address is a block and a component (`enc.3.fc1`, `dec.1.cross.out_proj`) or a part around the blocks
(`enc.conv1`, `proj_out`). Bare it is the component's output, with `:input` its input. One tensor has one
canonical address: the input of q_proj, k_proj, v_proj and gate is `attn_norm`, that of fc1 is `mlp_norm`,
that of out_proj is `context`, that of cross-attention's k_proj and v_proj `enc.norm`, that of proj_out
`dec.norm`, of a CTC head `enc.norm`. Layers count from zero, or with a minus from the end; `*` stands for one
component; commas join. `enc.3`, `dec.1` and `dec.1.cross` stand for all sites of that attention block.
"""

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel

from whisperq.errors import UsageError
from whisperq.models.families import family_of
from whisperq.models.module_map import ATTENTION

SAME_AS = {"q_proj": "attn_norm", "k_proj": "attn_norm", "v_proj": "attn_norm", "gate": "attn_norm",
           "out_proj": "context", "fc1": "mlp_norm"}  # fmt: skip
HEADS = {"proj_out": "dec.norm", "ctc_head": "enc.norm"}


@dataclass(frozen=True)
class Site:
    """A named tensor: output or input of a module."""

    address: str
    module: str
    is_input: bool = False
    axis: str = ""  # what its time counts, where a batch pads it: a key of the batch's lengths
    time: int = 0  # which dimension of one utterance's tensor that is

    @property
    def component(self) -> str:
        return self.address.split(".")[-1]

    def utterances(self, x: Tensor, lengths: Mapping[str, Sequence[int]]) -> Iterator[Tensor]:
        """A batch's tensor as one tensor for each utterance; `lengths`: by axis, what each one has of it."""
        if self.axis not in lengths:
            yield from x.detach()
            return
        for one, length in zip(x.detach(), lengths[self.axis], strict=True):
            yield self.unpad(one, length)

    def parts(self, x: Tensor, lengths: Mapping[str, Sequence[int]]) -> list[Tensor]:
        """x without padding in as few tensors as possible: the whole batch (batch, ...) where nothing is padded."""
        time = 2 if self.component in ("scores", "probs") else self.time + 1
        padded = self.axis in lengths and min(lengths[self.axis]) < x.shape[time]
        return list(self.utterances(x, lengths)) if padded else [x.detach()]

    def unpad(self, x: Tensor, length: int) -> Tensor:
        """One utterance's tensor, such as (time, features) or (heads, time, keys), without its padding."""
        if self.component not in ("scores", "probs"):
            return x.narrow(self.time, 0, length)
        return x[:, :length] if ".cross." in self.address else x[:, :length, :length]


def model_sites(model: PreTrainedModel) -> dict[str, Site]:
    """All sites of a model in the order of computation, by canonical address."""
    modules = dict(model.named_modules())
    family = family_of(model.config)
    sites = (Site(a, t.removesuffix(":input"), t.endswith(":input"), *family.axis(a)) for a, t in family.table(model))
    return {s.address: s for s in sites if modules.get(s.module) is not None}


def block_sites(sites: Mapping[str, Site]) -> list[str]:
    """Addresses of all sites in encoder and decoder blocks."""
    return [a for a in sites if re.match(r"(enc|dec)\.\d", a)]


def canonical(address: str) -> str:
    """`enc.0.q_proj:input` -> `enc.0.attn_norm`; an address that is canonical already stays."""
    base, _, suffix = address.partition(":")
    if suffix != "input":
        return address
    block, _, component = base.rpartition(".")
    if base in HEADS:
        return HEADS[base]
    if block.endswith(".cross") and component in ("k_proj", "v_proj"):
        return "enc.norm"
    return f"{block}.{SAME_AS[component]}" if component in SAME_AS else address


def resolve(patterns: str, sites: Mapping[str, Site]) -> list[str]:
    """Canonical addresses that the patterns name, in the order of computation.

    Raises UsageError for a pattern that names nothing, with the nearest addresses.
    """
    found: set[str] = set()
    for pattern in (p.strip() for p in patterns.split(",")):
        matches = {a for a in sites if matches_address(pattern, a, sites)}
        if not matches:
            near = difflib.get_close_matches(absolute(pattern, sites), sites, n=3, cutoff=0.5)
            raise UsageError(f"no site is named {pattern!r}; nearest: {', '.join(near) or ', '.join(list(sites)[:3])}")
        found |= matches
    return [a for a in sites if a in found]


def matches_address(pattern: str, address: str, sites: Mapping[str, Site]) -> bool:
    """Whether a pattern names this canonical address; `*` stands for one component."""
    pattern = canonical(absolute(pattern, sites))
    if re.fullmatch(r"(enc|dec)\.[\d*]+(\.cross)?", pattern):
        pattern += ".attention"
    parts, names = pattern.split("."), address.split(".")
    if len(parts) != len(names):
        return False
    return all(
        n in ATTENTION if p == "attention" else fnmatch.fnmatchcase(n, p) for p, n in zip(parts, names, strict=True)
    )


def absolute(address: str, sites: Mapping[str, Site]) -> str:
    """Negative layers counted from the end: `dec.-1.fc1` -> `dec.1.fc1` of two layers."""

    def replace(match: re.Match) -> str:
        part, index = match[1], int(match[2])
        layers = {m[1] for a in sites if (m := re.match(rf"{part}\.(\d+)", a))}
        return f"{part}.{len(layers) + index}" if -len(layers) <= index else match[0]

    return re.sub(r"^(enc|dec|cnn)\.(-\d+)", replace, address)


Watcher = Callable[[Tensor], Tensor | None]  # with an attribute `in_parts`, scores and probs may come head by head


@contextmanager
def watch(model: nn.Module, sites: Mapping[str, Site], watchers: Mapping[str, Watcher]) -> Iterator[None]:
    """Show each site's tensor to its watcher while inside; a tensor that it returns takes the site's place."""
    handles = []
    try:
        for address, watcher in watchers.items():
            site = sites[address]
            module = model.get_submodule(site.module)
            if site.is_input:
                handles.append(module.register_forward_pre_hook(_input_hook(watcher)))
            else:
                handles.append(module.register_forward_hook(_OutputHook(watcher)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _input_hook(watcher: Watcher) -> Callable:
    def hook(module: nn.Module, args: tuple) -> tuple | None:
        new = watcher(args[0])
        return None if new is None else (new, *args[1:])

    return hook


class _OutputHook:
    """in_parts: whether the watcher takes scores and probabilities head by head."""

    def __init__(self, watcher: Watcher) -> None:
        self.watcher, self.in_parts = watcher, bool(getattr(watcher, "in_parts", False))

    def __call__(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
        return self.watcher(output)
