"""results.json as Markdown: a round's figure is the median of its passes; tables show the rounds' median and range."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from building_ctc import SECONDS
from subjects import SUBJECTS, Subject

FLOAT32 = "transformers-float32"
OURS = ("int8", "onnx", "openvino")
BASELINES = (FLOAT32, "transformers-bf16", "ctranslate2", "nncf")

Rounds = list[dict[str, Any]]  # one entry of results.json for each round of one contender


def render(results: dict[str, Any]) -> str:
    parts = ["# INT8 benchmark", _machine(results)]
    for size, content in results["sizes"].items():
        subject = SUBJECTS[content.get("family", "whisper")]
        measured = {name: c for name, c in content["contenders"].items() if c["rounds"]}
        for batch in results["passes"]:
            done = max((len(c["rounds"]) for c in measured.values()), default=0)
            parts += [f"## {size}, batch {batch}, rounds: {done}", times(subject, measured, batch, results["tokens"])]
            if ratios := speed_ratios(subject, measured, batch):
                parts += ["Times faster (median of the rounds' ratios, and their range):", ratios]
        parts += [f"## {size}, memory, disk and loading", resources(subject, measured), _other_work(measured)]
    return "\n\n".join(parts + unmeasured(results)) + "\n"


def unmeasured(results: dict[str, Any]) -> list[str]:
    """Which contenders were left out, which failed, and why."""
    parts = []
    for title in ("left_out", "failed"):
        if entries := results[title]:
            lines = [f"- {name}: {why}" for name, why in entries.items()]
            parts.append("\n".join([f"{title.replace('_', ' ').capitalize()}:", "", *lines]))
    return parts


def machine_line(results: dict[str, Any]) -> str:
    """Processor, threads, memory, date and versions."""
    machine = results["machine"]
    flags = " ".join(name for name, present in machine["flags"].items() if present)
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return (
        f"{machine['cpu']} ({flags}), {results['threads']} threads of {machine['cores']} cores, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB; {results['date']}; {packages}."
    )


def _machine(results: dict[str, Any]) -> str:
    return (
        f"{machine_line(results)} "
        f"{_inputs(results)}, random weights; in each round every contender in turn in a new process. "
        "Median, and in brackets the range of the rounds."
    )


def _inputs(results: dict[str, Any]) -> str:
    families = {content.get("family", "whisper") for content in results["sizes"].values()}
    parts = {"whisper": "30 s of audio", "ctc": f"{SECONDS} s of audio for wav2vec 2.0"}
    return ", ".join(text for family, text in parts.items() if family in families)


def _other_work(measured: dict[str, Any]) -> str:
    cores = [r["busy_cores_of_others"] for contender in measured.values() for r in contender["rounds"]]
    return f"Cores that other processes kept busy meanwhile: {spread(cores, 2)}." if cores else ""


def times(subject: Subject, measured: dict[str, Any], batch: str, tokens: int) -> str:
    header = ["", *(f"{m.title}, {m.unit.format(tokens=tokens)}" for m in subject.metrics)]
    rows = []
    for name, contender in measured.items():
        cells = [
            spread([m.shown(v) for v in per_round(contender["rounds"], m.key, batch)], m.digits)
            for m in subject.metrics
        ]
        rows.append([subject.contenders[name].title, *cells])
    return table(header, rows)


def per_round(rounds: Rounds, metric: str, batch: str) -> list[float]:
    """Seconds: one figure for each round."""
    return [median(p[metric] for p in r["passes"][batch]) for r in rounds]


def speed_ratios(subject: Subject, measured: dict[str, Any], batch: str) -> str:
    """How many times less time each of ours took than each baseline, round by round; "" where there are no pairs."""
    baselines = [name for name in BASELINES if name in measured]
    first = {m.key: m.title for m in reversed(subject.metrics)}  # a time that is shown in two units counts once
    rows = []
    for name in (n for n in OURS if n in measured):
        for key, title in reversed(first.items()):
            ours = per_round(measured[name]["rounds"], key, batch)
            cells = [spread(divide(per_round(measured[b]["rounds"], key, batch), ours), 2) for b in baselines]
            rows.append([f"{name}, {title}", *cells])
    header = ["", *(f"than {subject.contenders[b].title}" for b in baselines)]
    return table(header, rows) if rows and baselines else ""


def divide(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Round by round, as far as both went."""
    return [a / b for a, b in zip(above, below, strict=False)]


def resources(subject: Subject, measured: dict[str, Any]) -> str:
    rows = []
    for name, contender in measured.items():
        rounds = contender["rounds"]
        peaks, loads = ([r[key] for r in rounds] for key in ("peak_bytes", "load_s"))
        disk, peak = contender["disk_bytes"], median(peaks)
        row = [f"{disk / 1e6:.1f}", f"{peak / 1e6:.1f}", spread(loads, 2)]
        if base := measured.get(FLOAT32):
            base_peak = median(r["peak_bytes"] for r in base["rounds"])
            row += [f"{disk / base['disk_bytes']:.3f}", f"{peak / base_peak:.3f}"]
        rows.append([subject.contenders[name].title, *row])
    header = ["", "disk MB", "peak memory MB", "load s"]
    if FLOAT32 in measured:
        header += ["disk, of float32", "memory, of float32"]
    return table(header, rows)


def spread(values: Sequence[float], digits: int) -> str:
    low, high = min(values), max(values)
    return f"{median(values):.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
