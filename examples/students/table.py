"""The tables and figures of run.sh: table.md, students.json, growth.png and the pictures, of what the run folders say.

trainings.jsonl keeps of each training what tables and page are made from: word errors of each utterance, the growth of
its outliers, its loss, and what its heads look at. With it a later training can be compared pair by pair after the run
folders are gone.

python table.py RUNS --out RESULTS

Costs are points of WER that INT8 adds to the same student in float; what a gate saves is the cost without it minus the
cost with it. Intervals: 95 %, over utterances of both sets, and over seeds where there are several
(whisperq.scoring.two_way_bootstrap); all differences are paired.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "benchmarks")]
from growth import draw_growth
from measured import WAYS, Student, logged, sinks, students
from outlier_tables import mean_outliers, mean_spread, outlier_table, spread_table
from pictures import draw_pictures
from tables import table
from words import SEED, Key, Words, key_of, less

from whisperq.artifact import is_artifact
from whisperq.results.cells import in_brackets
from whisperq.scoring.two_way_bootstrap import interval_95, resample_seeds

SYSTEMS = {
    "plain": "static, nothing eased", "gemm": "static, as by default", "dynamic": "dynamic", "paper": "paper's recipe",
}  # fmt: skip


LEFT = {"attention": "attention's out_proj", "fc2": "fc2 and its inputs", "sums": "residual sums"}


def said(points: np.ndarray, resampled: np.ndarray, sign: bool = True) -> dict[str, Any]:
    """points: (seeds,); resampled: (resamples, seeds)."""
    low, high = interval_95(resample_seeds(resampled, SEED))
    return {"points": float(np.mean(points)), "interval_95": [low, high], "signed": sign}


def cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return "-"
    if found["signed"]:
        return in_brackets(found["points"], found["interval_95"])
    low, high = found["interval_95"]
    return f"{found['points']:.2f} ({low:.2f} to {high:.2f})"


def words_of(found: Sequence[Student]) -> Words:
    """In float and of those systems that all students were measured with."""
    return Words(found, ("float", *(s for s in SYSTEMS if all(is_artifact(one.run / "eval" / s) for one in found))))


def summary(found: Sequence[Student], words: Words) -> dict[str, Any]:
    """All numbers of the tables."""
    measured = words.systems[1:]
    keys = list(dict.fromkeys(map(key_of, found)))
    alike = [[s for s in found if key_of(s) == key] for key in keys]
    each = [described([s], words, measured) for mine in alike if len(mine) > 1 for s in mine]
    return {
        "reference_words": int(words.words.sum()),
        "utterances": len(words.words),
        "models": [described(mine, words, measured) for mine in alike],
        "saved": list(savings(words, keys, measured)),
        "each": {"models": each, "saved": list(savings(words, keys, measured, apart=True)) if each else []},
    }


def described(mine: Sequence[Student], words: Words, systems: Sequence[str]) -> dict[str, Any]:
    """What seeds of one student came to, together."""
    key, seeds = key_of(mine[0]), [s.seed for s in mine]
    costs = {system: said(*words.cost(key, system, seeds)) | kl_of(mine, system) for system in systems}
    wer = said(*words.rate(key, "float", seeds), sign=False)
    training = [trained(s) for s in mine]
    statistics = {when: mean_outliers(mine, when) for when in ("before", "after")}
    return {
        "depth": key[0],
        "gate": mine[0].title,
        "seeds": seeds,
        "training": training,
        "wer": wer,
        "costs": costs,
        "left": {part: kl_of(mine, f"without-{part}") for part in LEFT},
        "outliers": statistics,
        "spread": {when: mean_spread(mine, when) for when in ("before", "after")},
    }


def kept(student: Student, words: Words) -> dict[str, Any]:
    """A line of trainings.jsonl; word errors and reference words are those of each utterance, in the sets' order.

    kl: step and nats a token; prompt: each head's share of attention (`measured.sinks`) before and after training.
    """
    errors = {system: words.of(student, system).tolist() for system in words.systems}
    return {
        "depth": student.depth,
        "gate": student.title,
        "seed": student.seed,
        "reference_words": words.words.tolist(),
        "word_errors": errors,
        "growth": [{key: entry[key] for key in ("step", "outliers")} for entry in logged(student, "outliers")],
        "kl": [[entry["step"], entry["kl"]] for entry in logged(student, "kl")],
        "prompt": {when: sinks(student, when) for when in ("before", "after") if student.gate != "teacher"},
    }


def trained(student: Student) -> dict[str, Any]:
    results = student.results("distilled", "distilled")
    return {k: results[k] for k in ("steps", "best_step", "validation_wer")} if results else {}


def kl_of(mine: Sequence[Student], system: str) -> dict[str, Any]:
    """Nats between the logits of the quantized model and float's, teacher-forced, the mean of the seeds."""
    felt = [r for s in mine if (r := s.results(f"sensitivity/{system}", "sensitivity"))]
    return {"kl": float(np.mean([r["everything"]["kl"] for r in felt]))} if felt else {}


def savings(words: Words, keys: Sequence[Key], systems: Sequence[str], apart: bool = False) -> Iterator[dict[str, Any]]:
    """What each gate changes, of the seeds that were trained with it and without: word errors in float, and costs.

    apart: of each seed by itself.
    """
    for gated in keys:
        depth, gate, way = gated
        if gate in ("none", "teacher") or (bare := (depth, "none", way)) not in keys:
            continue
        if not (shared := words.seeds(bare, gated)):
            continue
        for seeds in [[seed] for seed in shared] if apart else [shared]:
            entry: dict[str, Any] = {"depth": depth, "gate": f"{gate}{WAYS[way]}", "seeds": seeds}
            entry["float"] = said(*less(*(words.rate(k, "float", seeds) for k in (gated, bare))))
            for system in systems:
                entry[system] = said(*less(*(words.cost(k, system, seeds) for k in (bare, gated))))
            yield entry


def words_table(found: dict[str, Any]) -> str:
    systems = found["models"][0]["costs"]
    header = ["layers", "gate", "seeds", "best step", "WER float32", *(f"{SYSTEMS[s]} costs" for s in systems)]
    rows = []
    for m in found["models"]:
        steps = ", ".join(f"{t['best_step']:,} of {t['steps']:,}" for t in m["training"] if t) or "-"
        seeds = ", ".join(map(str, m["seeds"])) if m["gate"] != "teacher" else "-"
        costs = [cell(m["costs"][s]) for s in systems]
        rows.append([m["depth"], m["gate"], seeds, steps, cell(m["wer"]), *costs])
    return table(header, rows)


def millinats(found: dict[str, Any]) -> str:
    """KL in thousandths of a nat, three digits of it."""
    if "kl" not in found:
        return "-"
    kl = 1000 * found["kl"]
    return f"{kl:.3g}" if kl < 100 else f"{kl:,.0f}"


def divergence_table(found: dict[str, Any]) -> str:
    systems = found["models"][0]["costs"]
    rows = []
    for m in found["models"]:
        rows.append([m["depth"], m["gate"], *(millinats(m["costs"][s]) for s in systems)])
    return table(["layers", "gate", *(SYSTEMS[s] for s in systems)], rows)


def left_table(found: dict[str, Any]) -> str:
    """KL under the paper's recipe as it is and with some of its sites in float, of each training by itself."""
    each = [m for m in found["models"] if len(m["seeds"]) == 1] + found["each"]["models"]
    depths = [m["depth"] for m in found["models"]]
    rows = []
    for m in sorted((m for m in each if any(m["left"].values())), key=lambda m: depths.index(m["depth"])):
        cells = map(millinats, (m["costs"].get("paper", {}), *m["left"].values()))
        rows.append([m["depth"], m["gate"], "-" if m["gate"] == "teacher" else str(m["seeds"][0]), *cells])
    return table(["layers", "gate", "seed", "nothing left", *LEFT.values()], rows) if rows else ""


def savings_table(found: dict[str, Any]) -> str:
    systems = found["models"][0]["costs"]
    header = ["layers", "gate", "seeds", "WER float32, beside no gate", *(f"{SYSTEMS[s]}: saved" for s in systems)]
    rows = [
        [s["depth"], s["gate"], ", ".join(map(str, s["seeds"])), *(cell(s[k]) for k in ("float", *systems))]
        for s in found["saved"]
    ]
    return table(header, rows) if rows else ""


NOTES = (
    "WER in percent, Whisper's English normaliser, LibriSpeech dev and LJ Speech kept out of training together; an "
    "utterance ends where its last words came six times in a row. Costs are points of WER that INT8 adds to the same "
    "student; saved is the cost without a gate minus the cost with it, positive where the gate saves errors. 95 % "
    "intervals are over utterances and, where there are several seeds, over these as well, widened as Student's t is, "
    "so that two seeds alone leave nearly everything open; differences are paired. KL: of "
    "teacher-forced logits from float32's, on the first utterances of each set. The paper's recipe is emulated."
)


def markdown(found: dict[str, Any]) -> str:
    parts = ["# Gated students of whisper-tiny.en", NOTES]
    parts += [f"## Words: {found['utterances']} utterances, {found['reference_words']:,} words", words_table(found)]
    parts += ["## What a gate changes", savings_table(found)] if found["saved"] else []
    if found["each"]["models"]:
        parts += ["## Each seed by itself: intervals over utterances alone", words_table(found["each"])]
        parts += [savings_table(found["each"])] if found["each"]["saved"] else []
    parts += ["## KL from float32, thousandths of a nat a token", divergence_table(found)]
    if left := left_table(found):
        parts += ["## KL under the paper's recipe, with some of its sites left in float, thousandths of a nat", left]
    for title, key, form in (
        ("Kurtosis, the mean over sites (Gaussian = 3)", "kurtosis", ",.1f"),
        ("Infinity norm, the largest of the sites", "max_inf_norm", ",.1f"),
        ("Values beyond six standard deviations, of all values", "rate", ".3%"),
    ):
        parts += [f"## {title}", outlier_table(found, key, form)]
    if spread_of := spread_table(found):
        title = (
            "## Rows of the encoder's last residual sum with a magnitude above 100, and the standard deviation there"
        )
        parts += [title, spread_of]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="holds students/ and teacher/")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    found = students(options.runs)
    if not found:
        sys.exit(f"{options.runs} holds no student that was measured to the end")
    words = words_of(found)
    numbers = summary(found, words)
    (options.out / "students.json").write_text(json.dumps(numbers, indent=1) + "\n")
    (options.out / "table.md").write_text(markdown(numbers))
    lines = (json.dumps(kept(student, words)) + "\n" for student in found)
    (options.out / "trainings.jsonl").write_text("".join(lines))
    draw_growth(found, options.out / "growth.png")
    draw_pictures(found, options.out)


if __name__ == "__main__":
    main()
