"""Standard streams that take all that is written: those that are missing, and those of an old encoding."""

import codecs
import os
import sys

NAMES = ("stdin", "stdout", "stderr")  # by their numbers


def ready_streams() -> None:
    """Open the streams that are closed, and let standard output escape what its encoding lacks.

    A closed one is /dev/null from now on; else the next file that is opened gets its number, and what libraries print.
    """
    for number, name in enumerate(NAMES):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))
    codecs.register_error("whisperq", _escaped)
    sys.stdout.reconfigure(errors="whisperq")  # type: ignore[union-attr]  # the process's own stream has it


def _escaped(error: UnicodeError) -> tuple[str, int]:
    r"""Characters as JSON and Python escape them, \u65e5, those beyond U+FFFF as the two halves that JSON knows."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    halves = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{halves[i : i + 2].hex()}" for i in range(0, len(halves), 2)), error.end
