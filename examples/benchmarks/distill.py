"""How fast, in how much memory: a step of `whisperq distill` beside transformers' Seq2SeqTrainer, on this machine.

    python examples/benchmarks/distill.py --out results

writes distill.json (every raw timing) and distill.md. Same random weights, windows, losses (cross-entropy + 0.8 KL
for each token), number format and optimiser; in every round each contender works in turn, alone, in a new process,
and the round's first is another one each time. The first step's losses and gradient norms stand beside the times:
they must agree. Data comes from memory; what feeding would take is measured apart.

--compile, --gradient-checkpointing and --freeze-encoder add a row each for both. On a GPU, --micro is to be tried
out: the largest that fits is the fastest, and a contender that runs out of memory is listed as failed while the
others go on; --trainer-micro gives the Trainer another. (large-v2 needs about 10 GB for weights and moments and,
roughly estimated, 1.5 GB for each window of a forward pass; with --gradient-checkpointing much less.)

The CUDA path has never been run: no GPU was at hand when it was written.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from json import dumps
from pathlib import Path
from typing import Any

from int8 import names, run_worker, say
from machine import describe
from training_shapes import PAIRS, step_flops, window_tokens
from training_tables import render

DEFAULT_SIZES = {"cuda": ["large-v2", "small"], "cpu": ["small", "digits"]}
MATRIX = {"cuda": 8192, "cpu": 4096}
ENGINES = ("whisperq", "trainer")
VARIANTS = ("compile", "gradient_checkpointing", "freeze_encoder")
SHARED = ("device", "dtype", "threads", "steps", "warmup", "matrix")  # of the results, with every worker
WORKER = "training_worker.py"
Save = Callable[[dict[str, Any]], None]  # keeps the results so far


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("distill-benchmark"), help="folder of the results")
    parser.add_argument("--sizes", type=names(PAIRS), help="default: cuda large-v2,small; cpu small,digits")
    parser.add_argument("--batch", type=positive, help="windows of an optimiser step; default: by size and device")
    parser.add_argument("--micro", type=positive, help="windows of a forward pass; default: by size and device")
    parser.add_argument("--trainer-micro", type=positive, help="the Trainer's; default: --micro")
    parser.add_argument("--steps", type=positive, default=5, help="5: timed steps of a process")
    parser.add_argument("--warmup", type=positive, default=3, help="3: steps before them")
    parser.add_argument("--rounds", type=positive, default=5, help="5: the tables show their median and range")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--dtype", choices=("auto", "bfloat16", "float32"), default="auto", help="as whisperq distill")
    parser.add_argument("--threads", type=positive, default=len(os.sched_getaffinity(0)), help="on as many cores")
    parser.add_argument("--matrix", type=positive, help="rows of the product that is timed; cuda 8192, cpu 4096")
    parser.add_argument("--limit", type=positive, help="seconds that one process may take; default: any")
    for variant in VARIANTS:
        parser.add_argument(f"--{variant.replace('_', '-')}", action="store_true", help="add rows with it")
    return parser.parse_args(given)


def positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def contenders(options: argparse.Namespace, left_out: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Row -> engine and settings; plain first, then each variant that was asked for."""
    chosen = [None, *(v for v in VARIANTS if getattr(options, v))]
    engines = [e for e in ENGINES if e != "trainer" or find_spec("accelerate")]
    if "trainer" not in engines:
        left_out["trainer"] = "accelerate, which transformers' Trainer needs, is not installed"
        say(f"left out: trainer, {left_out['trainer']}")
    return {
        f"{engine} --{variant.replace('_', '-')}" if variant else engine: {
            "engine": engine, **{v: v == variant for v in VARIANTS}
        }
        for variant in chosen for engine in engines
    }  # fmt: skip


def measure_feeding(size: str, results: dict[str, Any], options: argparse.Namespace) -> None:
    """What decoding and log-mel of a batch take."""
    entry = results["sizes"][size]
    task = {"size": size, **{key: results[key] for key in SHARED}, "batch": entry["batch"], "measure": "feeding"}
    entry["feeding"] = run_worker(WORKER, task, options.threads)


def measure_steps(
    size: str, rows: dict[str, dict], results: dict[str, Any], options: argparse.Namespace, save: Save
) -> None:
    """All rounds of one size, each contender in turn; the results are saved after each."""
    common, entry = {"size": size, **{key: results[key] for key in SHARED}}, results["sizes"][size]
    running = list(rows)
    for number in range(options.rounds):
        product = run_worker(WORKER, {**common, "measure": "matrix"}, options.threads)
        entry["matrix_flops_per_s"].append(product["flops_per_s"])
        start = number % len(rows)
        for name in [n for n in [*rows][start:] + [*rows][:start] if n in running]:
            contender = entry["contenders"][name]
            task = {**common, **rows[name], "measure": "step", "batch": entry["batch"], "micro": contender["micro"]}
            try:
                contender["rounds"].append(run_worker(WORKER, task, options.threads, options.limit))
            except RuntimeError as error:
                running.remove(name)
                results["failed"][f"{size} {name}"] = str(error)
                say(f"failed: {size} {name}: {error}")
            else:
                say(f"{size}, round {number + 1} of {options.rounds}: {name} done")
            save(results)


def new_entry(size: str, rows: dict[str, dict], results: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """What is known of a size before anything is measured. Exits for batches that cannot be cut."""
    pair, device = PAIRS[size], results["device"]
    batch, micro = pair.batches[device]
    batch = options.batch or batch
    micro = options.micro or min(micro, batch)
    micros = {"whisperq": micro, "trainer": options.trainer_micro or micro}
    if uneven := [m for m in micros.values() if batch % m]:
        sys.exit(f"a micro-batch of {uneven[0]} does not divide the batch of {batch} ({size})")
    timed = range(results["warmup"] * batch, (results["warmup"] + results["steps"]) * batch)
    lengths = [window_tokens(pair, number) for number in timed]
    measured = {
        name: {
            "micro": micros[row["engine"]],
            "flops_per_step": step_flops(pair, lengths, row["freeze_encoder"]) / results["steps"],
            "rounds": [],
        }
        for name, row in rows.items()
    }
    mean = sum(lengths) / len(lengths)
    return {
        "pair": asdict(pair), "batch": batch, "mean_tokens": mean, "matrix_flops_per_s": [], "contenders": measured,
    }  # fmt: skip


def machine(accelerator: str | None) -> dict[str, Any]:
    found = describe()
    try:
        found["packages"]["accelerate"] = version("accelerate")
    except PackageNotFoundError:
        pass
    return found | {"accelerator": accelerator}


def write(results: dict[str, Any], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "distill.json").write_text(dumps(results, indent=1) + "\n")
    (out / "distill.md").write_text(render(results))


def one_gpu() -> None:
    """Workers see a single GPU: the Trainer would spread a batch over all that it finds."""
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]


def begin(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, dict]]:
    """Results without a size, and the rows that each size will have."""
    asked = {"measure": "probe", "threads": options.threads, "device": options.device, "dtype": options.dtype}
    try:
        found = run_worker(WORKER, asked, options.threads)
    except RuntimeError as error:  # a device or a number format that is not to be had
        sys.exit(str(error))
    left_out: dict[str, str] = {}
    rows = contenders(options, left_out)
    results = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(found["accelerator"]),
        "threads": options.threads,
        "device": found["device"],
        "dtype": found["dtype"],
        "matrix": options.matrix or MATRIX[found["device"]],
        "rounds": options.rounds,
        "steps": options.steps,
        "warmup": options.warmup,
        "left_out": left_out,
        "failed": {},
        "sizes": {},
    }
    return results, rows


def measure(sizes: Sequence[str] | None, options: argparse.Namespace) -> dict[str, Any]:
    results, rows = begin(options)
    for size in sizes or DEFAULT_SIZES[results["device"]]:
        results["sizes"][size] = new_entry(size, rows, results, options)
        measure_feeding(size, results, options)
        measure_steps(size, rows, results, options, partial(write, out=options.out))
    return results


def main() -> int:
    options = arguments()
    one_gpu()
    results = measure(options.sizes, options)
    print((options.out / "distill.md").read_text())
    return 1 if results["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
