"""The table of table.sh: table.md, wer.png and MODEL.json of what the run folders' manifests say.

python table.py RUNS --out RESULTS
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from measured import BASES, MARGINS, read_model

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from tables import machine_line, spread, table

from whisperq.report.robustness import robustness_tables
from whisperq.results.cells import in_brackets
from whisperq.results.cells import markdown as symptoms
from whisperq.results.comparisons import sentence

TITLES = {
    "float": "float32",
    "dynamic": "INT8, dynamic",
    "before": "INT8, static, nothing eased",
    "after": "INT8, static, as by default",
    "embedded": "INT8, static, calibrated on synthesised speech",
    "faster-whisper": "faster-whisper int8",
}
ORDER = tuple(TITLES)
NAMES = {"librispeech": "LibriSpeech dev", "ljspeech": "LJ Speech"}
Model = dict[str, Any]


def ordered(systems: dict[str, Any]) -> list[str]:
    """Main systems as TITLES has them, others behind them by name."""
    return sorted(systems, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


def main_systems(model: Model) -> list[str]:
    """Systems that transcribed as many utterances as float32 did, in no slower way than kernels."""
    systems = model["systems"]
    return [n for n in ordered(systems) if n in ORDER or systems[n]["runtime"] != "emulated"]


def rate(found: dict[str, Any]) -> str:
    low, high = (100 * end for end in found["wer_interval_95"])
    return f"{100 * found['wer']:.2f} ({low:.2f} to {high:.2f})"


def difference(found: dict[str, Any] | None) -> str:
    if not found:
        return "-"
    return in_brackets(found["difference"], found["interval_95"])


def kl(found: dict[str, Any]) -> str:
    return f"{1000 * found['kl']:.3g}" if found.get("kl") is not None else "-"


def megabytes(found: dict[str, Any], model: Model) -> list[str]:
    size = found.get("bytes")
    return [f"{size / 1e6:.1f}", f"{size / model['float32_bytes']:.3f}"] if size else ["-", "-"]


def main_table(model: Model) -> str:
    """Every main system, all utterances."""
    systems = model["systems"]
    first = systems["float"]["sets"]
    header = [model["model"], "runtime"]
    header += [f"{NAMES.get(n, n)}, {r['reference_words']:,} words" for n, r in first.items()]
    header += [f"minus {TITLES[base]}" for base in BASES] + [f"verdict at {margin}" for margin in MARGINS]
    header += ["KL (mnat)", "MB", "of float32"]
    rows = []
    for name in main_systems(model):
        s = systems[name]
        against = {base: s.get(f"against {base}", {}) for base in BASES}
        cells = [TITLES.get(name, name), s["runtime"], *map(rate, s["sets"].values())]
        cells += [difference(against[base].get(MARGINS[0])) for base in BASES]
        cells += [verdict(against["float"], margin) for margin in MARGINS]
        rows.append([*cells, kl(s), *megabytes(s, model)])
    return table(header, rows)


def verdict(against: dict[str, Any], margin: str) -> str:
    return sentence({**against[margin], "measure": "wer"}, float(margin)) if margin in against else "-"


def dynamic_line(model: Model) -> str:
    """Verdicts against dynamic INT8, which need no columns of their own."""
    parts = []
    for name in main_systems(model):
        if found := model["systems"][name].get("against dynamic"):
            said = "; ".join(f"at {margin}: {verdict(found, margin)}" for margin in MARGINS)
            parts.append(f"{TITLES.get(name, name)}: {said}")
    return f"Against {TITLES['dynamic']}: {'. '.join(parts)}." if parts else ""


def paper_table(model: Model) -> str:
    """The emulated recipes, on the utterances that they transcribed, float32's rate on the same ones beside them."""
    names = [n for n in ordered(model["systems"]) if n not in main_systems(model)]
    rows = []
    for name in names:
        s = model["systems"][name]
        found = s.get("against float", {}).get(MARGINS[0])
        rates = [f"{100 * found[key]:.2f}" for key in ("wer_a", "wer_b")] if found else ["-", "-"]
        words = f"{found['reference_words']:,}" if found else "-"
        loops = sum(r["loops"] for r in s["sets"].values())
        utterances = sum(r["utterances"] for r in s["sets"].values())
        rows.append([name, words, *rates, difference(found), f"{loops} of {utterances}", kl(s)])
    header = [f"{model['model']}, emulated", "words", "WER float32", "WER", "difference", "loops", "KL (mnat)"]
    return table(header, rows) if rows else ""


def speed_table(model: Model) -> str:
    """Seconds of audio in a second of wall time, each round's, and how often faster than the peer."""
    timed = model.get("speed")
    if not timed:
        return ""
    rounds, rows = timed["rounds"], []
    engines = [n for n in ordered(rounds) if rounds[n]]
    for name in engines:
        fast = [r["rtfx"] for r in rounds[name]]
        peer = [r["rtfx"] for r in rounds.get("faster-whisper", [])]
        times = [a / b for a, b in zip(fast, peer, strict=False)]
        rows.append([TITLES.get(name, name), spread(fast, 1), spread(times, 2) if times else "-", wer_of(timed, name)])
    header = [f"{model['model']}, batch 1", "RTFx", "times faster-whisper's", "WER of these recordings"]
    return f"{timing_line(timed)}\n\n{table(header, rows)}"


def wer_of(timed: dict[str, Any], name: str) -> str:
    return f"{100 * timed['wer'][name]:.2f}" if name in timed["wer"] else "-"


def timing_line(timed: dict[str, Any]) -> str:
    others = [r["busy_cores_of_others"] for rounds in timed["rounds"].values() for r in rounds]
    count = max(map(len, timed["rounds"].values()))
    return (
        f"Timed: {timed['recordings']} recordings, {timed['audio_seconds']:.0f} s of audio, one after the other, "
        f"greedy, features and text included; {count} rounds in which every engine works in turn in a new process. "
        f"Median of the rounds, and their range. {machine_line(timed)} "
        f"Cores that others kept busy meanwhile: {spread(others, 2)}."
    )


def agreement_table(model: Model) -> str:
    """How often two ways of computing one quantized model write the same."""
    found = model.get("agreement")
    if not found:
        return ""
    rows = [
        [pair, f"{n} of {found['utterances']} ({n / found['utterances']:.0%})"] for pair, n in found["equal"].items()
    ]
    rates = "; ".join(
        f"{name}: " + ", ".join(f"{NAMES.get(s, s)} {100 * wer:.2f}" for s, wer in sets.items())
        for name, sets in found["wer"].items()
    )
    header = [f"{model['model']}, as by default", "equal transcripts"]
    return f"{table(header, rows)}\n\nWER: {rates}. {AGREEMENT}"


AGREEMENT = (
    "`emulated-avx2` is the emulation with the instructions of an older CPU, which add up in another order. A code "
    "that lies near a tie falls to the other side, one in ten thousand in a layer; three layers on, the difference is "
    "as large as the quantization's own noise. So transcripts that are equal letter by letter cannot be asked of two "
    "ways to compute one quantized model, not even of one program on two CPUs; word error rates can."
)
NOTES = (
    "WER in percent with its 95 % interval over utterances, Whisper's English normaliser. Differences are points of "
    "WER over both sets together, negative where fewer errors were made, with the paired 95 % interval over "
    "utterances and the verdict of `whisperq compare` by two margins. All LJ Speech is one voice and LibriSpeech's "
    "three: how voices differ is not in these intervals. KL: of teacher-forced logits from float32's. MB: weights; "
    "float32 takes four bytes a parameter. RTFx: seconds of audio in a second of wall time."
)


def markdown(models: Sequence[Model]) -> str:
    parts = ["# Whisper in INT8", NOTES]
    for model in models:
        parts += [f"## {model['model']}", *filter(None, sections(model))]
    return "\n\n".join(parts) + "\n"


def sections(model: Model) -> Iterable[str]:
    if "float" in model["systems"]:
        yield main_table(model)
        yield dynamic_line(model)
    yield paper_table(model)
    yield speed_table(model)
    yield agreement_table(model)
    for name, found in model.get("robustness", {}).items():
        yield f"### {model['model']}, {TITLES.get(name, name)}: beside words\n\n{symptoms(robustness_tables(found))}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, help="holds a run folder for each model")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    models = [read_model(run) for run in sorted(args.runs.iterdir()) if (run / "eval").is_dir()]
    for model in models:
        (args.out / f"{model['model']}.json").write_text(json.dumps(model, indent=1) + "\n")
    (args.out / "table.md").write_text(text := markdown(models), encoding="utf-8")
    if any("against float" in s for model in models for s in model["systems"].values()):
        from picture import draw

        draw(models, {**TITLES}, args.out / "wer.png")
    print(text)


if __name__ == "__main__":
    main()
