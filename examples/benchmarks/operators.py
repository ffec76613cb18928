"""Where an encoder's time goes, operator by operator, and what of it is the gates'.

    python operators.py '{"int8": FOLDER, "int8-plain": FOLDER, "float": FOLDER, "threads": 2, "repeats": 9}'

prints one JSON object. The float model's gates are operators of their own. In the int8 runtime they are columns of
the product of q, k and v, and a factor in the attention kernel: what they cost is the difference of those two, layer
by layer and call by call in alternation, to an encoder without gates. Batch 1; milliseconds are medians.
"""

import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from building import random_features
from machine import use_cores

GATE = "gate"
QKV = "product (q, k, v and gate)"
ATTENTION = "attention (and gate)"
# Range -> the methods that run inside it; the encoder alone uses them so.
KERNELS = {ATTENTION: "attention", "layer norm and quantize": "layer_norm", "quantize": "quantize"}
PRODUCTS = {
    QKV: "__call__",
    "product, gelu, quantize (fc1, convolutions)": "gelu",
    "product, sum (out_proj, fc2)": "add",
}

Times = dict[str, list[float]]  # operator -> calls, milliseconds


def ranged(name: str, function: Callable) -> Callable:
    """The function inside a profiler's range."""
    import torch

    @wraps(function)
    def call(*args, **kwargs):
        with torch.profiler.record_function(name):
            return function(*args, **kwargs)

    return call


def name_ranges(owner: Any, methods: dict[str, str]) -> set[str]:
    """Put an object's or a class's methods into ranges; returns the ranges' names."""
    for name, method in methods.items():
        setattr(owner, method, ranged(name, getattr(owner, method)))
    return set(methods)


def run_once(run: Callable[[], Any], ranges: set[str], heads: int) -> Times:
    """One profiled run. What runs inside a range counts as it; everything else by its own name, children apart."""
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profiler:
        run()
    times: Times = defaultdict(lambda: [0, 0.0])
    for event in profiler.events():
        name = enclosing(event, ranges) or (GATE if is_gating(event, heads) else event.name)
        times[name][0] += event.name == name or name == GATE
        times[name][1] += event.self_cpu_time_total / 1e3
    return dict(times)


def enclosing(event, ranges: set[str]) -> str | None:
    while event is not None:
        if event.name in ranges:
            return event.name
        event = event.cpu_parent
    return None


def is_gating(event, heads: int) -> bool:
    """(batch, length, heads, 1) times (batch, length, heads, d_head)."""
    shapes = [s for s in event.input_shapes if len(s) == 4 and s[2] == heads]
    widths = sorted(s[3] for s in shapes)
    return event.name == "aten::mul" and len(widths) == 2 and widths[0] == 1 < widths[1]


def medians(runs: Sequence[Times]) -> Times:
    names = {name: None for run in runs for name in run}
    zero = [0, 0.0]
    return {n: [runs[0].get(n, zero)[0], median(r.get(n, zero)[1] for r in runs)] for n in names}


def summary(times: Times, gate_ms: float) -> dict[str, Any]:
    total = sum(ms for _, ms in times.values())
    return {"operators": times, "total_ms": total, "gate_ms": gate_ms, "gate_share": gate_ms / total}


def profile_float(folder: Path, repeats: int) -> dict[str, Any]:
    import torch

    from whisperq.models.gated_whisper import Gate
    from whisperq.models.loading import load_model

    model, features = load_model(folder, torch.float32, "cpu"), random_features(1)
    name_ranges(Gate, {GATE: "forward"})
    model.model.encoder(features)
    heads = model.config.encoder_attention_heads
    times = medians([run_once(lambda: model.model.encoder(features), {GATE}, heads) for _ in range(repeats)])
    return summary(times, times[GATE][1])


def profile_int8(gated: Path, plain: Path, repeats: int) -> dict[str, Any]:
    from whisperq.runtime.int8.whisper import Int8Runtime

    runtime, other = (Int8Runtime.load(folder, "cpu") for folder in (gated, plain))
    features = random_features(1)
    cost = gate_cost(runtime, other, features.shape[2] // 2, repeats)
    del other
    ranges = name_ranges(type(runtime.encoder[0].attention.inputs), PRODUCTS)
    ranges |= name_ranges(runtime.kernels, KERNELS)
    runtime.encoded(features)
    return summary(medians([run_once(lambda: runtime.encoded(features), ranges, 0) for _ in range(repeats)]), cost)


def gate_cost(gated, plain, rows: int, repeats: int) -> float:
    """Milliseconds by which both operators that hold the gates take longer than without them, over all layers."""
    layers = zip(gated.encoder, plain.encoder, strict=True)
    return sum(layer_cost(gated, a.attention, b.attention, rows, repeats) for a, b in layers)


def layer_cost(runtime, gated, plain, rows: int, repeats: int) -> float:
    """Both attention blocks on the same random codes (rows, d_model)."""
    import torch

    normed = torch.randint(256, (rows, runtime.config.d_model), dtype=torch.uint8)
    grid, dtype, attention = gated.out.grid, runtime.dtype, runtime.kernels.attention
    qkv, qkv_plain = gated.inputs(normed, dtype), plain.inputs(normed, dtype)
    gate = gated.gate(normed, qkv)
    products = difference(lambda: gated.inputs(normed, dtype), lambda: plain.inputs(normed, dtype), repeats)
    return products + difference(
        lambda: attention(qkv, 1, gated.heads, gate, grid),
        lambda: attention(qkv_plain, 1, plain.heads, None, grid),
        repeats,
    )


def difference(one: Callable[[], Any], other: Callable[[], Any], repeats: int) -> float:
    """Median of the milliseconds by which the first call takes longer than the second one after it."""
    found = []
    for _ in range(repeats + 1):
        began = perf_counter()
        one()
        between = perf_counter()
        other()
        found.append(1e3 * (2 * between - began - perf_counter()))
    return median(found[1:])


def render(title: str, profile: dict[str, Any], smallest: float = 0.001) -> str:
    """A Markdown table, the longest first; what has less than `smallest` of the time is summed up."""
    total = profile["total_ms"]
    ordered = sorted(profile["operators"].items(), key=lambda item: -item[1][1])
    large = [(n, calls, ms) for n, (calls, ms) in ordered if ms >= smallest * total]
    lines = [f"| {n} | {calls} | {ms:.2f} | {100 * ms / total:.1f} |" for n, calls, ms in large]
    rest = sum(ms for _, (_, ms) in ordered if ms < smallest * total)
    lines += [f"| others | | {rest:.2f} | {100 * rest / total:.1f} |", f"| all | | {total:.2f} | 100.0 |"]
    head = [f"## {title}", "", "| operator | calls | ms | % |", "| --- | --- | --- | --- |"]
    share = f"Gates: {profile['gate_ms']:.2f} ms, {100 * profile['gate_share']:.2f} % of the encoder's operator time."
    return "\n".join([*head, *lines, "", share])


def main() -> None:
    task = json.loads(sys.argv[1])
    use_cores(task["threads"])
    import torch

    torch.set_num_threads(task["threads"])
    profiles, output = {}, os.dup(1)
    os.dup2(2, 1)
    with torch.inference_mode():
        if "int8" in task:
            profiles["int8"] = profile_int8(Path(task["int8"]), Path(task["int8-plain"]), task["repeats"])
        if "float" in task:
            profiles["float"] = profile_float(Path(task["float"]), task["repeats"])
    os.write(output, (json.dumps(profiles) + "\n").encode())


if __name__ == "__main__":
    main()
