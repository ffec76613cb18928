"""One part of gpu.sh in a process of its own; what it finds is on the disk whenever `save` was called.

    python gpu_part.py '{"name": "int8", "device": "cuda", ...}'      the fields of Task

Libraries that read audio are imported by nearly all of whisperq and used by little of it. Where they are not installed,
modules of their names stand in, so that what reads no audio runs.
"""

import json
import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from gpu_record import update
from gpu_task import Failed, Task

FUNCTIONS = {
    "tests": "gpu_tests:tests",
    "agreement": "gpu_agreement:agreement",
    "int8": "gpu_int8:int8",
    "training": "gpu_training:training",
    "feeding": "gpu_feeding:feeding",
    "distillation": "gpu_feeding:distillation",
}
STOOD_IN_FOR = ("soundfile", "soxr", "jiwer")
STAND_IN = '''"""In the place of a library that is not installed: its names can be mentioned, and do nothing."""


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (Exception,), {})
'''


def stand_in(folder: Path) -> list[str]:
    """Modules for the libraries that are not installed, importable here and in all processes started from here."""
    absent = [name for name in STOOD_IN_FOR if find_spec(name) is None]
    if absent:
        folder.mkdir(parents=True, exist_ok=True)
        for name in absent:
            (folder / f"{name}.py").write_text(STAND_IN)
        sys.path.append(str(folder))
        os.environ["PYTHONPATH"] = os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(folder)]).strip(os.pathsep)
    return absent


def main() -> None:
    task = Task(**json.loads(sys.argv[1]))
    if absent := stand_in(task.folder / "stand-ins"):
        print(f"not installed, and not needed here: {', '.join(absent)}", flush=True)
    module, _, function = FUNCTIONS[task.name].partition(":")
    try:
        getattr(import_module(module), function)(task)
    except Failed as failed:
        update(Path(task.out), task.name, reason=str(failed))
        sys.exit(1)
    finally:
        task.save()


if __name__ == "__main__":
    main()
