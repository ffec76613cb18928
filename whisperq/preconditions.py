"""What flags and manifests alone refuse: asked before a step begins, and so by --dry-run too.

Steps and runtimes ask again what hangs on more than these: how many processes share a batch, or a model folder that
they were given without a command line.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from whisperq import artifact
from whisperq.errors import InputError, UsageError
from whisperq.kinds import noun
from whisperq.options import Execution
from whisperq.runtimes import RUNTIMES, running, taking
from whisperq.settings import Context
from whisperq.training_options import DistillConfig, TrainingConfig


def check_training(config: TrainingConfig, world: int) -> None:
    """Raises UsageError for settings that no training, or none of so many processes, can have."""
    check_batches(config, world)
    check_weights(config)
    if isinstance(config, DistillConfig):
        check_teacher_cache(config)
        check_ranges(config)


def check_batches(config: TrainingConfig, world: int) -> None:
    """Raises UsageError for an effective batch that these processes cannot make."""
    share, rest = divmod(config.batch_size, world)
    if rest:
        raise UsageError(f"--batch-size {config.batch_size} cannot be shared by {world} processes")
    if isinstance(config.micro_batch, int) and share % config.micro_batch:
        whose = f", {share} for each of {world} processes" if world > 1 else ""
        raise UsageError(f"--micro-batch {config.micro_batch} does not divide --batch-size {config.batch_size}{whose}")


def check_weights(config: TrainingConfig) -> None:
    """Raises UsageError where no part of the loss has a weight: nothing would be learned."""
    names = [name for name in ("ce_weight", "task_weight", "kl_weight") if hasattr(config, name)]
    if not any(getattr(config, name) for name in names):
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in names)
        raise UsageError(f"{flags} are both 0, so that there is nothing to learn from; give one of them a weight")


def check_teacher_cache(config: DistillConfig) -> None:
    """Raises UsageError for a cache of windows that never come again."""
    others = [name for name in ("spec_augment", "pack") if getattr(config, name)]
    if config.teacher_cache is not None and others:
        flag = f"--{others[0].replace('_', '-')}"
        raise UsageError(
            f"--teacher-cache keeps what the teacher says of windows that come again, but {flag} makes other windows "
            "in every epoch; leave one of the two out"
        )


def check_ranges(config: DistillConfig) -> None:
    """Raises UsageError where the penalty on ranges could not see the tensors: what is compiled or computed twice."""
    for name in ("compile", "recompute"):
        if config.range_weight and getattr(config, name):
            raise UsageError(f"--range-weight looks at tensors that --{name} hides; leave one of the two out")


def seconds_of(text: str | None) -> float | None:
    """23:30:00, 45:00 or 1-12:00:00 (days, as SLURM writes them) in seconds. Raises UsageError."""
    if text is None:
        return None
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text.strip())
    if not match:
        raise UsageError(f"--max-time is {text!r}, but must be a time such as 23:30:00")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60.0 + seconds


def check_set_names(names: Sequence[str], remedy: str) -> None:
    """Raises UsageError for sets that would write the same files; `remedy`: how a set is named on the command line."""
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two sets are named {name}; name them apart with {remedy}")
        if Path(name).name != name:
            raise UsageError(f"a set's name becomes a file's, so that it cannot be {name!r}")


def kind_of(folder: Path) -> str:
    """float, quantized, or onnx: an exported one."""
    # Its files are checked where a step names it as an input.
    kind = artifact.load(folder, verify=False).kind if artifact.is_artifact(folder) else "float"
    return kind if kind in ("quantized", "onnx") else "float"


def check_calibrated(folder: Path) -> None:
    """Raises InputError for a model that has its ranges already: calibrating watches a float one."""
    if (kind := kind_of(folder)) != "float":
        state = "exported" if kind == "onnx" else kind
        raise InputError(f"{folder} is {state} already; calibrate the float model that it was made from")


def check_runtime(folder: Path, kind: str, execution: Execution, context: Context) -> str:
    """The runtime's name. Raises UsageError for one that a model of this kind has not, or flags that it lacks."""
    name = execution.runtime or running(kind)[0]
    runtime = RUNTIMES[name]
    if runtime.runs != kind:
        fitting = " or ".join(running(kind))
        held = "a float model" if kind == "float" else noun(kind)
        remedy = f"; whisperq calibrate --model {folder} and whisperq quantize make one for {name}"
        raise UsageError(
            f"{folder} holds {held}; it runs with --runtime {fitting}, not {name}{remedy if kind == 'float' else ''}"
        )
    if execution.reduce_range is not None and "reduce_range" not in runtime.takes:
        raise UsageError(f"--reduce-range is for --runtime {taking('reduce_range')}, not for {name}")
    if execution.attention_dtype != "auto" and not runtime.integers:
        raise UsageError(f"--attention-dtype is for runtimes in integers; of {name} --dtype is the number format")
    if execution.padding == "short" and "padding" not in runtime.takes:
        raise UsageError(
            f"--padding short is for --runtime {taking('padding')}; the graphs of {name} take whole windows"
        )
    if context.device == "cuda" and not runtime.cuda:
        raise UsageError(f"--runtime {name} runs on the CPU, not with --device cuda")
    if kind == "quantized" and runtime.integers:
        check_integer_form(folder, "run it with --runtime emulated")
    return name


def check_export(folder: Path, as_float: bool) -> None:
    """Raises UsageError for what graphs of integers cannot express, as far as the manifest tells."""
    kind = kind_of(folder)
    if kind == "onnx":
        raise UsageError(f"{folder} is exported already; name the model that it was made from")
    if kind == "quantized" and as_float:
        raise UsageError(f"--float exports a float model, but {folder} is quantized; name the one it was made from")
    if kind == "quantized":
        check_integer_form(folder, "export the float one with --float")
        if artifact.load(folder, "quantized", verify=False).results["activation_ranges"] == "dynamic":
            raise UsageError(dynamic_refusal(folder))


def check_integer_form(folder: Path, otherwise: str) -> None:
    """Raises UsageError for a quantized model without an integer form; `otherwise` says what to do instead.

    The recipe paper has products that no integer kernel computes.
    """
    recipe = artifact.load(folder, "quantized", verify=False).results.get("recipe", "gemm")
    if recipe != "gemm":
        raise UsageError(
            f"the recipe {recipe} of {folder} has no form in integers; {otherwise}, or whisperq quantize --recipe gemm"
        )


def dynamic_refusal(folder: Path) -> str:
    return (
        f"{folder} has dynamic activations, a range for each token as it comes, which the exported graphs do not "
        "express; run it with --runtime int8, or whisperq quantize --activations static"
    )
