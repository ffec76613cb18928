"""What the manifests of a model's run folder say of each system; nothing here is measured or guessed.

    RUN/eval/<system>  RUN/quantized/<system>  RUN/sensitivity/<system>  RUN/comparisons/<system>-vs-<base>-<what>

Differences are points of WER, system - base, both sets pooled; sizes are bytes of weights, float32 four a parameter.
"""

import json
import struct
from collections.abc import Iterable
from itertools import combinations
from math import prod
from pathlib import Path
from typing import Any

from whisperq import artifact
from whisperq.hashing import file_sha256

MARGINS = ("0.3", "0.2")
BASES = ("float", "dynamic")
RUNTIMES = ("int8", "emulated", "emulated-avx2")
RATES = ("wer", "wer_interval_95", "reference_words", "utterances", "loops")
DIFFERENCES = ("wer_a", "wer_b", "difference", "interval_95", "p", "reference_words", "enough_words", "enough_blocks")
DIFFERENCES += ("blocks", "blocked_by", "verdict", "within_margin", "words_needed")


def read_model(run: Path) -> dict[str, Any]:
    """All systems of one model that were evaluated. Raises InputError for an artifact that is not as it was made."""
    folders = sorted(f for f in (run / "eval").glob("*") if artifact.is_artifact(f) and not f.name.startswith("."))
    systems = {f.name: system(run, f.name) for f in folders}
    if "float" not in systems:
        return {"model": run.name, "systems": systems}
    source = Path(artifact.load(run / "eval" / "float").inputs["model"]["path"])
    size = 4 * parameters(source)
    systems["float"] |= {"bytes": size}
    speed = run / "speed.json"
    timed = {"speed": json.loads(speed.read_text())} if speed.is_file() else {}
    beside = {f.name: symptoms(f) for f in sorted((run / "robustness").glob("*")) if artifact.is_artifact(f)}
    found = {"model": run.name, "float32_bytes": size, "systems": systems, **timed, "robustness": beside}
    return found | {"agreement": agreement(run / "agreement")}


def agreement(folder: Path) -> dict[str, Any]:
    """How many transcripts of pairs of runtimes are equal letter by letter; {} where they were not compared."""
    names = [name for name in RUNTIMES if artifact.is_artifact(folder / name)]
    made = {name: artifact.load(folder / name, "evaluation") for name in names}
    texts = {name: transcripts(folder / name, one.results["sets"]) for name, one in made.items()}
    pairs = {f"{a} / {b}": sum(texts[a][k] == texts[b][k] for k in texts[a]) for a, b in combinations(names, 2)}
    if not pairs:
        return {}
    rates = {name: {n: r["wer"] for n, r in one.results["sets"].items()} for name, one in made.items()}
    hashes = {name: hash_of(one) for name, one in made.items()}
    return {"utterances": len(texts[names[0]]), "equal": pairs, "wer": rates, "manifests": hashes}


def transcripts(evaluation: Path, sets: Iterable[str]) -> dict[tuple[str, str], str]:
    found = {}
    for name in sets:
        lines = (evaluation / "hypotheses" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        found |= {(name, line["id"]): line["pred_text"] for line in map(json.loads, lines)}
    return found


def symptoms(folder: Path) -> dict[str, Any]:
    """All that `robustness` found, without the names of folders."""
    made = artifact.load(folder, "robustness")
    systems = {key: {"runtime": made.results[key]["runtime"]} for key in "ab"}
    return {**made.results, **systems, "manifest": hash_of(made)}


def parameters(folder: Path) -> int:
    """How many numbers the weights' files hold; tied ones are there once."""
    return sum(prod(entry["shape"]) for file in folder.glob("*.safetensors") for entry in header(file))


def header(file: Path) -> list[dict[str, Any]]:
    """The tensors that a safetensors file names at its beginning."""
    with open(file, "rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        entries = json.loads(opened.read(length))
    return [entry for name, entry in entries.items() if name != "__metadata__"]


def system(run: Path, name: str) -> dict[str, Any]:
    """One system's rates, speed, size, KL and comparisons, those that are there, and the hashes of their manifests."""
    made = artifact.load(run / "eval" / name, "evaluation")
    sets, found = made.results["sets"], {"runtime": made.results["runtime"], "limit": made.config["limit"]}
    manifests = {"eval": hash_of(made)}
    found["sets"] = {n: {k: r[k] for k in RATES} for n, r in sets.items()}
    found["rtfx"] = sum(r["audio_seconds"] for r in sets.values()) / sum(r["wall_seconds"] for r in sets.values())
    if artifact.is_artifact(place := run / "quantized" / name):
        made = artifact.load(place, "quantized", verify=False)
        found |= {"bytes": made.results["bytes"], "quantize": made.config}
        manifests["quantize"] = hash_of(made)
    if artifact.is_artifact(place := run / "sensitivity" / name):
        felt = artifact.load(place, "sensitivity")
        whole = felt.results["everything"]
        found |= {"kl": whole["kl"], "snr_db": whole["snr_db"]}
        manifests["sensitivity"] = hash_of(felt)
    for base in BASES:
        found |= compared(run / "comparisons", name, base, manifests)
    return {**found, "manifests": manifests}


def compared(folder: Path, name: str, base: str, manifests: dict[str, str]) -> dict[str, Any]:
    """Against one base: the pooled difference with a verdict by each margin, and each set's difference."""
    found: dict[str, Any] = {}
    for margin in MARGINS:
        if artifact.is_artifact(place := folder / f"{name}-vs-{base}-{margin}"):
            made = artifact.load(place, "comparison")
            (pooled,) = made.results["sets"].values()
            found[margin] = {k: pooled[k] for k in DIFFERENCES}
            manifests[f"compare {base} {margin}"] = hash_of(made)
    if artifact.is_artifact(place := folder / f"{name}-vs-{base}-sets"):
        made = artifact.load(place, "comparison")
        found["sets"] = {n: {k: r[k] for k in DIFFERENCES} for n, r in made.results["sets"].items()}
        manifests[f"compare {base} sets"] = hash_of(made)
    return {f"against {base}": found} if found else {}


def hash_of(made: artifact.Artifact) -> str:
    return file_sha256(made.path / artifact.MANIFEST)
