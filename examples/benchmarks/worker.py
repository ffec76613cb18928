"""One contender in a process of its own, for one round.

    python worker.py '{"family": "whisper", "contender": ..., "folder": ..., "threads": ..., "tokens": ...,
                       "passes": {"1": 3, "8": 1}}'

prints one JSON object, the last line of its stdout: seconds to load, bytes of peak memory, and every pass.
"""

import json
import os
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from machine import OtherWork, clear_peak_memory, resident_bytes, use_cores
from subjects import SUBJECTS


def measure(family: str, contender: str, folder: Path, threads: int, tokens: int, passes: dict[str, int]) -> dict:
    """`passes` counts the timed passes of each batch size.

    Peak memory is that of loading and one pass of batch 1, less what was resident after the imports; that pass is
    also the warm-up of batch 1.
    """
    import torch

    torch.set_num_threads(threads)
    make_input, subject = SUBJECTS[family].make_input, SUBJECTS[family].contenders[contender]
    for module in subject.imports:
        import_module(module)
    for file in (f for f in folder.rglob("*") if f.is_file()):
        read_through(file)
    features = make_input(1)
    before, other_work = clear_peak_memory(), OtherWork()
    with ExitStack() as stack, torch.inference_mode():
        began = time.perf_counter()
        run = subject.load(folder, threads, stack)
        loaded, peak_loading = time.perf_counter() - began, resident_bytes("VmHWM") - before
        run(features, tokens)
        peak = resident_bytes("VmHWM") - before
        timed = {}
        for batch, count in passes.items():
            features = make_input(int(batch))
            if int(batch) > 1:
                run(features, tokens)  # whole: graphs prepare themselves for every length of the past
            timed[batch] = [asdict(run(features, tokens)) for _ in range(count)]
    memory = {"imports_bytes": before, "peak_loading_bytes": peak_loading, "peak_bytes": peak}
    return {"load_s": loaded, **memory, "busy_cores_of_others": other_work.cores(), "passes": timed}


def read_through(path: Path, chunk: int = 1 << 24) -> None:
    """Bring a file into the page cache, so that loading does not measure the disk."""
    with open(path, "rb") as file:
        while file.read(chunk):
            pass


def main() -> None:
    task = json.loads(sys.argv[1])
    use_cores(task["threads"])
    output = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no result
    task["folder"] = Path(task["folder"])
    line = json.dumps(measure(**task)) + "\n"
    os.write(output, line.encode())


if __name__ == "__main__":
    main()
