"""The table and the figure of padding.sh, from what its commands left.

    python table.py RUNS --out RESULTS

writes padding.json, padding.md and, where curves were measured, curve.png.
"""

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from whisperq import artifact
from whisperq.results.cells import with_interval


def read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def results(folder: Path) -> dict[str, Any] | None:
    return artifact.load(folder, verify=False).results if artifact.is_artifact(folder) else None


def gathered(run: Path) -> dict[str, Any]:
    """All that lies in one model's run folder."""
    found: dict[str, Any] = {"model": run.name, "words": {}, "curves": {}, "timing": read(run / "timing.json")}
    for runtime in ("float", "int8"):
        if compared := results(run / "comparisons" / runtime):
            short = results(run / "eval" / f"{runtime}-short") or {}
            again = sum(one.get("decoded_again", 0) for one in short["sets"].values())
            tail = short.get("tail_seconds")
            verdict = next(iter(compared["sets"].values()))
            found["words"][runtime] = {"all": verdict, "again": again, "tail_seconds": tail}
            if sets := results(run / "comparisons" / f"{runtime}-sets"):
                found["words"][runtime]["sets"] = sets["sets"]
        if curve := read(run / f"curve-{runtime}.json"):
            found["curves"][runtime] = curve
    return found


def row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def words(models: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield row("model", "runtime", "words", "full, %", "short, %", "difference", "95 % interval", "again in full")
    yield row(*["---"] * 8)
    for model in models:
        for runtime, one in model["words"].items():
            for name, v in [("both lists", one["all"]), *one.get("sets", {}).items()]:
                yield row(
                    model["model"], f"{runtime}, {name}", f"{v['reference_words']:,}", f"{100 * v['wer_a']:.2f}",
                    f"{100 * v['wer_b']:.2f}", *with_interval(v["difference"], v["interval_95"]),
                    one["again"] if name == "both lists" else "",
                )  # fmt: skip


def timing(models: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Medians over the rounds; nothing where nothing was timed."""
    if not any(model["timing"] for model in models):
        return
    yield row("model", "engine", "RTFx", "times int8 full", "encoder, s", "first token of 3 s, ms", "WER %")
    yield row(*["---"] * 7)
    for model in models:
        if not (timed := model["timing"]):
            continue
        rates = {name: median(x["rtfx"] for x in rounds) for name, rounds in timed["rounds"].items()}
        for name, rounds in timed["rounds"].items():
            firsts = [1000 * s for x in rounds for s in x["first_token_seconds"]]
            encoder = f"{median(x['encoder_seconds'] for x in rounds):.2f}" if "encoder_seconds" in rounds[0] else ""
            yield row(
                model["model"], name, f"{rates[name]:.1f}", f"{rates[name] / rates['int8 full']:.2f}", encoder,
                f"{median(firsts):.0f}" if firsts else "", f"{100 * timed['wer'][name]:.2f}",
            )  # fmt: skip


def median(values: Iterator[float] | Sequence[float]) -> float:
    return statistics.median(values)


def draw(models: Sequence[Mapping[str, Any]], place: Path) -> None:
    """WER over the tail, the full window as a dotted line; below, the share of the rows that is computed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (upper, lower) = plt.subplots(2, 1, figsize=(7, 5.5), sharex=True, height_ratios=(3, 1))
    for model in models:
        for runtime, curve in model["curves"].items():
            tails = sorted(curve["tails"].items(), key=lambda pair: float(pair[0]))
            seconds = [float(tail) for tail, _ in tails]
            label = f"{model['model']}, {runtime}"
            (line,) = upper.plot(seconds, [100 * one["wer"] for _, one in tails], "o-", label=label)
            upper.axhline(100 * curve["full"]["wer"], color=line.get_color(), linestyle=":", linewidth=1)
    lower.plot(seconds, [one["rows"] for _, one in tails], "o-", color="gray")
    upper.set_ylabel("WER, % (dotted: full window)")
    upper.legend(fontsize=8, loc="lower left")
    upper.set_ylim(0, 1.15 * upper.get_ylim()[1])
    lower.set_ylim(0, 1)
    lower.set_ylabel("rows computed")
    lower.set_xlabel("tail, seconds of padding computed behind the speech")
    figure.tight_layout()
    figure.savefig(place, dpi=110, metadata={"Software": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    models = [gathered(run) for run in sorted(options.runs.iterdir()) if (run / "calibration").is_dir()]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "padding.json").write_text(json.dumps(models, indent=1) + "\n", encoding="utf-8")
    lines = ["# Padding left out", "", *words(models), "", *timing(models), ""]
    if any(model["curves"] for model in models):
        draw([model for model in models if model["curves"]], options.out / "curve.png")
        lines += ["![word error rate over the tail](curve.png)", ""]
    (options.out / "padding.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
