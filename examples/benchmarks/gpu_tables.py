"""gpu.json as Markdown, a section for each part.

    python gpu_tables.py OUT        writes OUT/gpu.md anew; OUT/gpu.json too, from the records that a killed script left

Figures are medians, in brackets their range. Targets are a GPU's, and are shown for a GPU alone.
"""

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from gpu_record import PARTS, Record, join, read_all
from tables import divide, spread, table, unmeasured
from training_tables import comparison, pairs, rate, rounded, speeds

CONTENDERS = {"int8": "int8", "bf16": "transformers bf16", "compiled": "compiled bf16"}


@dataclass(frozen=True)
class Figure:
    """What is timed of int8, and how many times less time it is to take than one of the others."""

    key: str
    title: str
    digits: int
    target: float
    baseline: str
    batches: tuple[str, ...] = ()  # with this target; none: all


FIGURES = (
    Figure("encoder_s", "Encoder", 1, 1.3, "compiled", ("8", "32")),
    Figure("step_s", "Decoder step", 2, 2.0, "bf16"),
)


def render(whole: Record) -> str:
    sections = ["\n\n".join([title(whole), machine_line(whole), states(whole)])]
    for name in PARTS:
        record = whole["parts"].get(name, {})
        if results := record.get("results"):
            lines = [f"## {name}", outcome(name, record), *SECTIONS[name](results, whole["device"] == "cuda")]
            sections.append("\n\n".join(line for line in lines if line))
    return "\n\n".join(sections) + "\n"


def title(whole: Record) -> str:
    if whole["device"] == "cuda":
        return f"# Checks on one {whole['card']}"
    return f"# Run on a CPU ({whole['machine']['cpu']}), no GPU: that the checks work, not how fast anything is"


def machine_line(whole: Record) -> str:
    machine, parts = whole["machine"], []
    if whole["device"] == "cuda":
        parts += [
            f"{whole['card']} with {whole['memory_bytes'] / 2**30:.0f} GiB",
            f"compute capability {whole['capability']}", f"driver {whole['driver']}", f"CUDA {whole['cuda']}",
        ]  # fmt: skip
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    parts += [f"{machine['cpu']}, {machine['cores']} cores", f"Python {machine['python']}", packages]
    return f"{'; '.join(parts)}. Commit {whole['commit']}, {whole['start']}, size {whole['size']}."


def states(whole: Record) -> str:
    rows = []
    for name, record in whole["parts"].items():
        took = f"{record['seconds']:.1f}" if "seconds" in record else ""
        rows.append([name, record["status"], took, _cell(record.get("reason", ""))])
    return table(["part", "status", "seconds", "reason"], rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def outcome(name: str, record: Record) -> str:
    reason = f": {record['reason']}" if record.get("reason") else ""
    return f"{name}: {record['status']}{reason}."


def tests(results: Record, gpu: bool) -> list[str]:
    failed, skipped = results["failed"], results["skipped"]
    counts = (
        f"{results['passed']} passed, {len(failed)} failed, {len(skipped)} skipped, of {', '.join(results['files'])}."
    )
    lines = [f"- failed: `{name}`: {why}" for name, why in failed.items()]
    lines += [f"- skipped, {count}: {why}" for why, count in Counter(skipped.values()).items()]
    return [counts, "\n".join(lines)]


def agreement(results: Record, gpu: bool) -> list[str]:
    """Errors against float32 on the CPU."""
    rows = []
    for name, row in results["runtimes"].items():
        errors = [_cell(row["error"]), ""] if "error" in row else [f"{row['encoder']:.2g}", f"{row['logits']:.2g}"]
        rows.append([name, *errors, f"{results['allowed'][name]:g}"])
    first = results.get("first_difference")
    where = f"The integers first differ from the CPU's in {first['layer']}, by {first['error']:.2g}." if first else ""
    header = ["", "relative error of the encoder's output", "of the first logits", "allowed"]
    return [f"`{results['size']}`, against float32 on the CPU:", table(header, rows), where]


def int8(results: Record, gpu: bool) -> list[str]:
    batches = dict(sorted(results["batches"].items(), key=lambda item: int(item[0])))
    setting = f"30 s of audio, {results['rounds']} rounds in turn, {results['steps']} decoder steps in each"
    parts = [f"`{results['size']}`, {setting}.", *(f"int8: {notice}." for notice in results["notices"])]
    for figure in FIGURES:
        parts += [f"{figure.title}:", timings(figure, batches, gpu)]
    reasons = ((batch, entry.get("not_compiled")) for batch, entry in batches.items())
    return [*parts, "\n".join(f"- not compiled, batch {batch}: {why}" for batch, why in reasons if why)]


def timings(figure: Figure, batches: dict[str, Record], gpu: bool) -> str:
    """Milliseconds of each contender, then how many times less time int8 took, round by round."""
    measured = {batch: entry[figure.key] for batch, entry in batches.items() if figure.key in entry}
    present = [name for name in CONTENDERS if any(name in seconds for seconds in measured.values())]
    rows = []
    for batch, seconds in measured.items():
        ratios = {name: divide(seconds[name], seconds["int8"]) for name in present[1:] if name in seconds}
        cells = [spread([1e3 * s for s in seconds[n]], figure.digits) if n in seconds else "" for n in present]
        cells += [spread(ratios[name], 2) if name in ratios else "" for name in present[1:]]
        rows.append([batch, *cells, *[verdict(figure, batch, ratios)] * gpu])
    header = ["batch", *(f"{CONTENDERS[name]}, ms" for name in present)]
    header += [f"int8 times faster than {CONTENDERS[name]}" for name in present[1:]] + ["target"] * gpu
    return table(header, rows)


def verdict(figure: Figure, batch: str, ratios: dict[str, list[float]]) -> str:
    """The target, and whether the median of the rounds meets it."""
    if figure.batches and batch not in figure.batches:
        return "none"
    wanted = f"{figure.target:g} times {CONTENDERS[figure.baseline]}"
    if figure.baseline not in ratios:
        return f"{wanted}: not measured"
    return f"{wanted}: {'met' if median(ratios[figure.baseline]) >= figure.target else 'missed'}"


def training(results: Record, gpu: bool) -> list[str]:
    parts = []
    for size, entry in results["sizes"].items():
        measured = {name: c for name, c in entry["contenders"].items() if c["rounds"]}
        pair = entry["pair"]
        shapes = " -> ".join("{}/{}".format(*pair[who]) for who in ("teacher", "student"))
        parts.append(
            f"`{size}`, {shapes}, {entry['batch']} windows of {pair['window_s']} s a step, {results['dtype']}:"
        )
        parts.append(speeds(measured, entry) if measured and entry["matrix_flops_per_s"] else "Nothing was measured.")
        if both := pairs(measured):
            parts.append(comparison(measured, both))
        parts.append(rate(results, entry))
    wanted = "Targets: 50 % of the matrix rate, 1.5 times the Trainer." if gpu else ""
    return [*parts, wanted, *unmeasured(results)]


def feeding(results: Record, gpu: bool) -> list[str]:
    return [described(results), trainings(results["runs"])]


def distillation(results: Record, gpu: bool) -> list[str]:
    return [described(results), trainings({f"{results['steps']} steps": results})]


def described(results: Record) -> str:
    shapes = " -> ".join("{}/{}".format(*results[who]) for who in ("teacher", "student"))
    return (
        f"{shapes}, width {results['width']}, {results['batch']} windows a step; {results['recordings']} recordings of "
        f"{results['recording_s']} s in Opus, {results['workers']} workers."
    )


def trainings(runs: dict[str, Record]) -> str:
    header = ["", "steps/s", "% of the time waiting for data", "peak memory GiB"]
    rows = []
    for name, run in runs.items():
        waiting = spread([100 * share for share in run["data_wait"]], 1)
        rows.append([name, rounded(run["steps_per_second"]), waiting, f"{run['memory_gib']:.2f}"])
    return table(header, rows)


SECTIONS = {
    "tests": tests, "agreement": agreement, "int8": int8, "training": training, "feeding": feeding,
    "distillation": distillation,
}  # fmt: skip


if __name__ == "__main__":
    out = Path(sys.argv[1])
    (out / "gpu.md").write_text(render(join(out, read_all(out))))
