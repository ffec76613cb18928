"""One setting with its help and limits, the flags that every command has, and what every step is told."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from whisperq.checks import Settings

NormalizerName = Literal["english", "basic", "none"]
Padding = Literal["full", "short"]
Measure = Literal["wer", "cer"]


def option(
    default: Any,
    help: str,
    low: float | None = None,
    high: float | None = None,
    off: str | None = None,
    operational: bool = False,
) -> Any:
    """A setting with its help line, the least and greatest value that make sense, and a switch's opposite.

    operational: how a job is run, which its result does not depend on; a rerun may change it.
    """
    metadata = {"help": help, "low": low, "high": high, "off": off, "operational": operational}
    return field(default=default, metadata=metadata)


def padding_option() -> Any:
    """The option --padding of every command that transcribes recordings with Whisper."""
    return option(
        "full", "What the encoder computes: full: the whole window; short: speech and a short tail, the rest is kept."
    )


def loop_limit_option() -> Any:
    """The option --loop-limit of every command that decodes many recordings with Whisper."""
    help = "End an utterance whose last tokens are one n-gram so many times in a row, such as 8; default: never."
    return option(None, help, low=2)


def tokens_per_second_option() -> Any:
    """The option --tokens-per-second of every command that has --loop-limit."""
    help = "End an utterance at 16 tokens and so many for each second of its sound, such as 20; default: never."
    return option(None, help, low=10)


@dataclass(frozen=True)
class Common(Settings):
    """Flags of every command."""

    run: str = option("run", "Run folder: every command has its place in it.")
    config: str | None = option(None, "Configuration file; default: ./whisperq.yaml, else the run folder's.")
    out: str | None = option(None, "Write the artifact here instead of its place in the run folder.")
    force: bool = option(False, "Replace an artifact that differs.", off="")
    seed: int = option(0, "Seed of every random choice.", low=0, high=2**31 - 1)
    device: Literal["auto", "cpu", "cuda"] = option(
        "auto", "Where to compute; auto: the GPU where there is one, else the CPU."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "auto", "Number format; auto: float32, in trainings bfloat16 autocast where the hardware has it."
    )
    json: bool = option(False, "Print one JSON object, the manifest, on stdout and all else on stderr.", off="")
    dry_run: bool = option(False, "Print settings, what would be read and written, and do nothing.", off="")


@dataclass(frozen=True)
class Context:
    """Settings that every step gets beside its own."""

    device: str = "auto"
    dtype: str = "auto"
    seed: int = 0
    force: bool = False
    language: str | None = "en"
    task: str = "transcribe"

    def settings(self, config: Any, **chosen: Any) -> dict[str, Any]:
        """All values that decide a result, for the manifest; `chosen` are those that the step found out itself.

        The device is the one asked for: a requeued job finds its work done on whichever node it lands.
        """
        shared = {name: getattr(self, name) for name in ("device", "dtype", "seed", "language", "task")}
        deciding = {f.name for f in fields(config) if not f.metadata["operational"]}
        return {**{k: v for k, v in asdict(config).items() if k in deciding}, **shared, **chosen}
