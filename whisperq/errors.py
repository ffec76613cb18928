"""What a user can get wrong, each with the exit code that a job script sees.

0 done, 1 unexpected, 2 usage, 3 bad input (file, audio, manifest, model),
75 checkpointed, run me again (EX_TEMPFAIL of sysexits.h).
"""

from collections.abc import Iterable
from difflib import get_close_matches


class WhisperqError(Exception):
    """An error whose message is one clear sentence for the user."""

    exit_code = 1


class UsageError(WhisperqError):
    """The command line asks for something that makes no sense."""

    exit_code = 2


class InputError(WhisperqError):
    """A file, recording, manifest or model that cannot be used."""

    exit_code = 3


class ReadError(WhisperqError):
    """A file that may well be good could not be read; no InputError, for what is left out as bad must be bad."""

    exit_code = 3


class TrainingError(WhisperqError):
    """Training cannot go on, for example because the loss is not finite."""

    exit_code = 1


class KernelError(WhisperqError):
    """A kernel computes something else than exact arithmetic says, on the device that it was to run on."""

    exit_code = 1


class Interrupted(WhisperqError):
    """All work so far is saved; the same command goes on from there."""

    exit_code = 75


# As openai/whisper and faster-whisper name them, without an owner.
WHISPERS = (
    "tiny", "tiny.en", "base", "base.en", "small", "small.en", "medium", "medium.en",
    "large", "large-v2", "large-v3", "large-v3-turbo",
)  # fmt: skip


def meant(name: str, known: Iterable[str]) -> str:
    """Text to follow an unknown name: the nearest known one, or nothing where none is near."""
    near = get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def hub_meant(name: str) -> str:
    """Text to follow a name that is no model here: the Hub's id, where other tools take that name for a Whisper."""
    short = name.removeprefix("whisper-").replace("large-v1", "large")
    full = "large-v3-turbo" if short == "turbo" else short
    return f" (did you mean openai/whisper-{full}?)" if full in WHISPERS else ""
