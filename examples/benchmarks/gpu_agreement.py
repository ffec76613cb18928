"""Whether every runtime computes on this device what the float model computes on the CPU in float32.

    error = ||found - reference|| / ||reference||       of the encoder's output, and of the first logits

for one window of noise through random weights. Where the integers are wrong on a GPU, the first layer is named whose
output differs from the same integers on the CPU: both run with their last layers taken away, one fewer each time.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from building import build, random_features
from gpu_task import Failed, Task, in_a_line
from ours import emulated_runtime, float_runtime, int8_runtime
from torch import Tensor

from whisperq.runtime.int8.whisper import Int8Runtime
from whisperq.runtime.pytorch import PyTorchRuntime

ALLOWED = {"float": 0.01, "emulated": 0.1, "int8": 0.1}  # int8 on a CPU: 0.038 with these weights
FROM_CPU = 0.1  # of the same integers on both devices, whose attention rounds in other places


def agreement(task: Task) -> None:
    """Raises Failed where an error is greater than allowed, or a runtime cannot run."""
    size = "tiny" if task.smallest else "large-16-2"
    quantized = build("quantized", size, task.folder)  # which is made from the other
    gated = build("gated", size, task.folder)
    reference = outputs(float_runtime(gated, "cpu"))
    task.results |= {"size": size, "allowed": ALLOWED, "runtimes": {}}

    def emulated() -> list[Tensor]:
        with ExitStack() as stack:
            return outputs(emulated_runtime(quantized, task.device, stack))

    found: dict[str, Callable[[], list[Tensor]]] = {
        "float": lambda: outputs(float_runtime(gated, task.device)),
        "int8": lambda: int8_runtime(quantized, task.device).trial(),
        "emulated": emulated,
    }
    for name, compute in found.items():
        task.results["runtimes"][name] = compared(compute, reference)
        task.save()
    wrong = [name for name, row in task.results["runtimes"].items() if not within(row, ALLOWED[name])]
    if "int8" in wrong and "error" not in task.results["runtimes"]["int8"] and task.device != "cpu":
        pair = (int8_runtime(quantized, device) for device in (task.device, "cpu"))
        task.results["first_difference"] = first_difference(*pair, random_features(1), FROM_CPU)
    if wrong:
        raise Failed("; ".join(sentence(name, task.results) for name in wrong))


@torch.inference_mode()
def outputs(runtime: PyTorchRuntime) -> list[Tensor]:
    """What `Int8Runtime.trial` gives, of the same noise: the encoder's output and the first logits."""
    state = runtime.encode(random_features(1))
    encoded = state.encoded
    tokens = torch.zeros(1, 1, dtype=torch.long, device=encoded.device)
    return [encoded.flatten(0, 1), runtime.decode_step(tokens, state)]


def compared(compute: Callable[[], list[Tensor]], reference: list[Tensor]) -> dict[str, Any]:
    """Errors of the encoder's output and of the logits, or why there are none."""
    try:
        found = compute()
    except Exception as error:  # of a kernel or its compiler, of whatever kind: the others are still to be seen
        return {"error": in_a_line(error)}
    return dict(zip(("encoder", "logits"), map(relative_error, found, reference), strict=True))


def relative_error(found: Tensor, reference: Tensor) -> float:
    found, reference = (x.double().cpu() for x in (found, reference))
    return float((found - reference).norm() / reference.norm())


def within(row: dict[str, Any], allowed: float) -> bool:
    return "error" not in row and all(error <= allowed for error in row.values())  # not a number is not within


def sentence(name: str, results: dict[str, Any]) -> str:
    row = results["runtimes"][name]
    if "error" in row:
        return f"{name}: {row['error']}"
    first = results.get("first_difference") if name == "int8" else None
    where = f", first in {first['layer']}" if first else ""
    return f"{name} is off by {row['encoder']:.2g} (encoder) and {row['logits']:.2g} (logits){where}"


@torch.inference_mode()
def first_difference(
    found: Int8Runtime, reference: Int8Runtime, features: Tensor, allowed: float
) -> dict[str, Any] | None:
    """The first layer behind which both differ by more than allowed: {"layer", "error"}, None where none does."""
    for part, output, least in (("encoder", encoded, 0), ("decoder", first_logits, 1)):
        for count in range(least, len(getattr(found, part)) + 1):
            values = []
            for runtime in (found, reference):
                with shortened(runtime, part, count):
                    values.append(output(runtime, features))
            if not (error := relative_error(*values)) <= allowed:
                layer = f"{part[:3]}.{count - 1}" if count else "the convolutions or the last norm"
                return {"layer": layer, "error": error}
    return None


@contextmanager
def shortened(runtime: Int8Runtime, part: str, count: int) -> Iterator[None]:
    """The runtime with the first `count` layers of its encoder or decoder alone."""
    layers = getattr(runtime, part)
    setattr(runtime, part, layers[:count])
    try:
        yield
    finally:
        setattr(runtime, part, layers)


def encoded(runtime: Int8Runtime, features: Tensor) -> Tensor:
    codes = runtime.encoded(features)
    return codes if runtime.encoded_grid is None else runtime.encoded_grid.values(codes)


def first_logits(runtime: Int8Runtime, features: Tensor) -> Tensor:
    tokens = torch.zeros(1, 1, dtype=torch.long, device=runtime.device)
    return runtime.decode_step(tokens, runtime.encode(features))
