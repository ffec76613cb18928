"""distill.json as Markdown: a round's figure is the mean of its steps; tables show the rounds' median and range."""

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

import training_shapes
from tables import divide, machine_line, spread, table, unmeasured

MEMORY = {
    "cpu": "Peak memory is what was resident at most in the timed steps less what was after the imports.",
    "cuda": "Peak memory is what torch allocated on the device at most in the timed steps.",
}


def render(results: dict[str, Any]) -> str:
    parts = ["# A distillation step", _machine(results)]
    for size, entry in results["sizes"].items():
        measured = {name: c for name, c in entry["contenders"].items() if c["rounds"]}
        parts += [f"## {size}", _setting(entry)]
        if measured:
            parts += [speeds(measured, entry), f"Cores that other processes kept busy meanwhile: {_others(measured)}."]
        if both := pairs(measured):
            parts += ["Times faster, of the memory, and how well the first step agrees:", comparison(measured, both)]
        parts += [rate(results, entry), _feeding(results, entry)]
    parts.append(f"## Operations\n\n{training_shapes.__doc__.split(chr(10) * 2, 1)[1].strip()}")
    return "\n\n".join(parts + unmeasured(results)) + "\n"


def _machine(results: dict[str, Any]) -> str:
    accelerator = f"{results['machine']['accelerator']}; " if results["machine"]["accelerator"] else ""
    precision = "float32" if results["dtype"] == "float32" else f"{results['dtype']} autocast, the teacher held in it"
    return (
        f"{accelerator}{machine_line(results)} "
        f"{results['device']}, {precision}; random weights, features from memory; in each round every contender in "
        f"turn in a new process, {results['steps']} steps after {results['warmup']} of warm-up. "
        f"Median, and in brackets the range of the rounds. {MEMORY[results['device']]}"
    )


def _setting(entry: dict[str, Any]) -> str:
    pair = entry["pair"]
    teacher, student = ("{} encoder and {} decoder layers".format(*pair[who]) for who in ("teacher", "student"))
    micros = ", ".join(f"{name} in forward passes of {c['micro']}" for name, c in entry["contenders"].items())
    return (
        f"Teacher {teacher}, student {student} with headwise gates, width {pair['width']}, {pair['heads']} heads, "
        f"{pair['vocabulary']} tokens in the vocabulary. {entry['batch']} windows of {pair['window_s']} s a step, each "
        f"with {pair['tokens'][0]} to {pair['tokens'][1]} labels, {entry['mean_tokens']:.0f} in the mean; {micros}."
    )


def per_second(contender: dict[str, Any]) -> list[float]:
    """Optimiser steps: one figure for each round."""
    return [len(r["step_s"]) / r["seconds"] for r in contender["rounds"]]


def speeds(measured: dict[str, Any], entry: dict[str, Any]) -> str:
    header = [
        "", "steps/s", "samples/s", "audio hours/s", "peak memory MB", "imports MB", "TFLOP/s", "% of the matrix rate",
    ]  # fmt: skip
    return table(header, [[name, *_cells(c, entry)] for name, c in measured.items()])


def _cells(contender: dict[str, Any], entry: dict[str, Any]) -> list[str]:
    steps, batch, rate = per_second(contender), entry["batch"], median(entry["matrix_flops_per_s"])
    hours = batch * entry["pair"]["window_s"] / 3600
    flops = contender["flops_per_step"]
    peaks, imports = ([r[key] / 1e6 for r in contender["rounds"]] for key in ("peak_bytes", "imports_bytes"))
    columns = [[scale * s for s in steps] for scale in (1, batch, hours)] + [peaks, imports]
    columns += [[scale * s for s in steps] for scale in (flops / 1e12, 100 * flops / rate)]
    return [rounded(values) for values in columns]


def rounded(values: Sequence[float]) -> str:
    """Median and range with three figures of the median."""
    middle = abs(median(values))
    return spread(values, max(0, 2 - math.floor(math.log10(middle))) if middle else 0)


def _others(measured: dict[str, Any]) -> str:
    return spread([r["busy_cores_of_others"] for c in measured.values() for r in c["rounds"]], 2)


def pairs(measured: dict[str, Any]) -> list[tuple[str, str]]:
    """Ours and the Trainer with the same settings."""
    found = [(name, name.replace("whisperq", "trainer")) for name in measured if name.startswith("whisperq")]
    return [(ours, theirs) for ours, theirs in found if theirs in measured]


def comparison(measured: dict[str, Any], both: Sequence[tuple[str, str]]) -> str:
    header = ["", "times faster", "of its peak memory", "loss (difference)", "gradient norm (difference)"]
    rows = []
    for ours, theirs in both:
        a, b = measured[ours], measured[theirs]
        memory = divide(*([r["peak_bytes"] for r in c["rounds"]] for c in (a, b)))
        cells = [spread(divide(per_second(a), per_second(b)), 2), spread(memory, 2)]
        for key in ("loss", "gradient_norm"):
            one, other = (c["rounds"][0]["first"][key] for c in (a, b))
            cells.append(f"{one:.5f}, {other:.5f} ({abs(one - other) / abs(other):.1e})")
        rows.append([f"{ours} to {theirs}", *cells])
    return table(header, rows)


def rate(results: dict[str, Any], entry: dict[str, Any]) -> str:
    found, size = entry["matrix_flops_per_s"], results["matrix"]
    if not found:
        return "The matrix rate was not measured."
    flops = ", ".join(f"{name} {c['flops_per_step'] / 1e12:.4g}" for name, c in entry["contenders"].items())
    return (
        f"The matrix rate: a {results['dtype']} product of two {size} x {size} matrices ran at "
        f"{rounded([f / 1e12 for f in found])} TFLOP/s. Useful TFLOP of a step, as counted below: {flops}."
    )


def _feeding(results: dict[str, Any], entry: dict[str, Any]) -> str:
    feeding, batch, window = entry["feeding"], entry["batch"], entry["pair"]["window_s"]
    decoding = " or ".join(f"{batch * s:.3g} ({name})" for name, s in feeding["decode_core_s"].items())
    rates = ", ".join(f"{1 / s:.3g} ({name})" for name, s in feeding["decode_core_s"].items())
    device = results["machine"]["accelerator"] or f"{results['threads']} cores"
    return (
        f"Feeding {batch} x {window} s takes {decoding} core-seconds, and log-mel {batch * feeding['log_mel_s']:.3g} s "
        f"on {device}; windows decoded in a second by a core: {rates}."
    )
