"""whisperq: Whisper made small and fully INT8, honestly measured.

    import whisperq as wq

    ranges = wq.calibrate("openai/whisper-base", out="ranges")
    small = wq.quantize("openai/whisper-base", ranges, out="small")
    print(wq.transcribe("talk.wav", model=small))

Every command is a function (whisperq/api.py), imported when it is first named.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from whisperq.registered import STEPS

if TYPE_CHECKING:
    from whisperq.api import Artifact as Artifact
    from whisperq.api import load as load

__version__ = "0.1.0"

OTHERS = (
    "Artifact", "Source", "load",
    "WhisperqError", "UsageError", "InputError", "ReadError", "TrainingError", "Interrupted",
)  # fmt: skip
__all__ = [*STEPS, *OTHERS]


def command(name: str) -> Any:
    """The function of a command, `-` written `_`."""
    return import_module("whisperq.api").function(name)


def __getattr__(name: str) -> Any:
    if name == "report":  # a package of that name, which can be called
        return import_module("whisperq.report")
    if name in STEPS:
        return command(name)
    if name in OTHERS:
        return getattr(import_module("whisperq.api"), name)
    raise AttributeError(f"module 'whisperq' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
