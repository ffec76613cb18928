"""How fast, how large: whisperq's runtimes beside transformers, CTranslate2 and NNCF, on this machine.

    python examples/benchmarks/int8.py --out results

writes results.json (every raw timing) and results.md. Random weights; Whisper gets 30 s of audio and decodes a fixed
number of tokens greedily, wav2vec 2.0 gets 10 s and gives its logits. In every round each contender works in turn,
alone, in a new process; the round's first is another one each time. Builds are kept in --work. --profile prints the
INT8 encoder's time by operator instead.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import operators
from building import HIDDEN, SIZES, build
from contenders import CONTENDERS
from machine import describe, thread_settings
from subjects import SUBJECTS
from tables import render

HERE = Path(__file__).parent
REPEATS = 9  # of what --profile runs
PASSES = 3  # timed passes of batch 1 in a round; larger batches take one
PAYLOAD = (".safetensors", ".bin", ".onnx", ".onnx_data", ".data", ".xml")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shown = [name for name in SIZES if name not in HIDDEN]
    parser.add_argument("--only", type=names(CONTENDERS), help=f"comma-separated: {', '.join(CONTENDERS)}")
    parser.add_argument("--sizes", type=names(SIZES), default=shown, help=f"comma-separated: {', '.join(shown)}")
    parser.add_argument("--batches", type=lambda text: [int(b) for b in text.split(",")], default=[1, 8], help="1,8")
    parser.add_argument("--rounds", type=int, default=5, help="5: the tables show their median and range")
    parser.add_argument("--tokens", type=int, default=64, help="64: new tokens of each decoding")
    parser.add_argument("--threads", type=int, default=2, help="2, on as many cores")
    parser.add_argument("--out", type=Path, default=Path("int8-benchmark"), help="folder of the results")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "whisperq-benchmark", help="folder of the models"
    )
    parser.add_argument("--profile", action="store_true", help="the encoder's time by operator: int8 and float")
    return parser.parse_args()


def names(known: Sequence[str]):
    def parse(text: str) -> list[str]:
        chosen = [name.strip() for name in text.split(",")]
        if unknown := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
        return chosen

    return parse


def present(chosen: Sequence[str] | None, sizes: Sequence[str], left_out: dict[str, str]) -> list[str]:
    """The contenders of these sizes whose packages are installed; the others go into `left_out` with a line."""
    found, fitting = [], {name for size in sizes for name in SUBJECTS[SIZES[size].family].contenders}
    for name in (n for n in chosen or CONTENDERS if n in fitting):
        if missing := CONTENDERS[name].missing():
            left_out[name] = f"{missing} is not installed"
            say(f"left out: {name}, {left_out[name]}")
        else:
            found.append(name)
    return found


def run_worker(script: str, task: dict[str, Any], threads: int, limit: float | None = None) -> dict[str, Any]:
    """The worker's result. Raises RuntimeError with its last line of errors, or after `limit` seconds."""
    command = [sys.executable, HERE / script, json.dumps(task)]
    environment = {**os.environ, **thread_settings(threads)}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=limit)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"not done after {limit:.0f} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise RuntimeError(lines[-1])
    return json.loads(done.stdout.splitlines()[-1])


def measure_size(size: str, results: dict[str, Any], chosen: Sequence[str], options: argparse.Namespace) -> None:
    """All rounds of one size; the results are written after each."""
    family = SIZES[size].family
    folders = build_all(size, chosen, options.work, results["failed"])
    entries = {name: {"disk_bytes": disk_bytes(folder), "rounds": []} for name, folder in folders.items()}
    results["sizes"][size] = {"family": family, "config": SIZES[size].config(), "contenders": entries}
    running = list(folders)
    for number in range(options.rounds):
        start = number % len(folders) if folders else 0
        order = [*folders][start:] + [*folders][:start]
        for name in [n for n in order if n in running]:
            task = {
                "family": family, "contender": name, "folder": str(folders[name].resolve()), "threads": options.threads,
                "tokens": options.tokens, "passes": results["passes"],
            }  # fmt: skip
            try:
                entries[name]["rounds"].append(run_worker("worker.py", task, options.threads))
            except RuntimeError as error:
                running.remove(name)
                results["failed"][f"{size} {name}"] = str(error)
                say(f"failed: {size} {name}: {error}")
            else:
                say(f"{size}, round {number + 1} of {options.rounds}: {name} done")
        write(results, options.out)


def build_all(size: str, chosen: Sequence[str], work: Path, failed: dict[str, str]) -> dict[str, Path]:
    """The folder of each contender that this size has; one that cannot be made is noted in `failed`."""
    folders, contenders = {}, SUBJECTS[SIZES[size].family].contenders
    for name in (n for n in chosen if n in contenders):
        try:
            folders[name] = build(contenders[name].product, size, work)
        except subprocess.CalledProcessError:
            failed[f"{size} {name}"] = f"{contenders[name].product} could not be built"
            say(f"failed: {size} {name}: {failed[f'{size} {name}']}")
    return folders


def disk_bytes(folder: Path) -> int:
    """Weights, graphs and grids; not tokenizers, settings and manifests."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.suffix in PAYLOAD or f.name == "qparams.json")


def write(results: dict[str, Any], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (out / "results.md").write_text(render(results))


def profile(chosen: Sequence[str], options: argparse.Namespace) -> None:
    """profile.json and profile.md: operators of the int8 and the float encoder of every size."""
    products = {"int8": "quantized", "int8-plain": "quantized-plain", "float": "gated"}
    products = {role: product for role, product in products.items() if role.removesuffix("-plain") in chosen}
    found, parts = {}, ["# Encoder time by operator"]
    for size in (s for s in options.sizes if SIZES[s].family == "whisper"):
        folders = {role: str(build(product, size, options.work).resolve()) for role, product in products.items()}
        task = {**folders, "threads": options.threads, "repeats": REPEATS}
        found[size] = run_worker("operators.py", task, options.threads)
        parts += [operators.render(f"{size}, {role}, batch 1", profile) for role, profile in found[size].items()]
    options.out.mkdir(parents=True, exist_ok=True)
    content = {"machine": describe(), "threads": options.threads, "repeats": REPEATS, "sizes": found}
    (options.out / "profile.json").write_text(json.dumps(content, indent=1) + "\n")
    (options.out / "profile.md").write_text("\n\n".join(parts) + "\n")
    print((options.out / "profile.md").read_text())


def main() -> int:
    options = arguments()
    left_out: dict[str, str] = {}
    chosen = present(options.only, options.sizes, left_out)
    if options.profile:
        profile(chosen, options)
        return 0
    results = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe(),
        "threads": options.threads,
        "rounds": options.rounds,
        "tokens": options.tokens,
        "passes": {str(batch): PASSES if batch == 1 else 1 for batch in options.batches},
        "left_out": left_out,
        "failed": {},
        "sizes": {},
    }
    for size in options.sizes:
        measure_size(size, results, chosen, options)
    print((options.out / "results.md").read_text())
    return 1 if results["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
