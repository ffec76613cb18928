"""How every error ends: one sentence on standard error and an exit code.

75: told to stop, the same command goes on; 130: Ctrl-C; 1: unexpected; others are the error's own (whisperq.errors).
"""

import errno
import os
import re
import sys
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import typer

from whisperq.errors import WhisperqError
from whisperq.names import printable
from whisperq.standard_error import StandardError
from whisperq.stopping import AGAIN, INTERRUPT, INTERRUPTED, Told, raised, speaker

BAD_PATH = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)
# Of PyTorch on a GPU and on a CPU, of cuBLAS, and of NumPy; all but the last raise a RuntimeError, as for much else.
NO_MEMORY = re.compile("out of memory|can't allocate memory|_ALLOC_FAILED|Unable to allocate", re.IGNORECASE)
WANTED = re.compile(r"allocate (\d[\d.,]* (?:[KMGTPE]iB|bytes))")


@contextmanager
def reported(flags: Collection[str] = ()) -> Iterator[None]:
    """Every error becomes one sentence and its exit code, and so does a signal to stop.

    flags: names of the command's settings, for advice.
    """
    with raised() as received:
        try:
            yield
        except typer.Exit:
            raise
        except KeyboardInterrupt:
            stopped(received)
        except Exception as error:
            if received:  # an error of a library, say, whose import the signal broke off
                stopped(received)
            explained(error, flags)


def stopped(received: list[int]) -> None:
    """End the process after these signals, or after a Ctrl-C that raised KeyboardInterrupt without a handler."""
    if not received or INTERRUPT in received:
        fail("interrupted; no half-written artifact is left", INTERRUPTED)
    fail(f"{Told(received[0])}; no half-written artifact is left: run the same command again", AGAIN)


def explained(error: Exception, flags: Collection[str] = ()) -> None:
    if isinstance(error, WhisperqError):
        fail(str(error), error.exit_code)
    traceback_if_asked()
    if isinstance(error, OSError):
        where = error.filename2 or error.filename  # of a copy its destination, where the room is wanting
        place = f": {where}" if where else ""
        named_badly = isinstance(error, BAD_PATH) or error.errno in (errno.ENAMETOOLONG, errno.EILSEQ)
        fail(f"{error.strerror or error}{place}", 3 if named_badly else 1)
    if isinstance(error, UnicodeEncodeError):  # Latin-1 bytes, say, which Python keeps as halves of pairs
        fail(f"a name that is no UTF-8 cannot be used here: {str(error.object)[:200]}; rename it", 3)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and NO_MEMORY.search(str(error))):
        fail(out_of_memory(str(error), flags), 1)
    fail(f"unexpected {type(error).__name__}: {error} (WHISPERQ_DEBUG=1 shows where)", 1)


def out_of_memory(message: str, flags: Collection[str]) -> str:
    """A sentence with what may help: a training goes on from its newest checkpoint, computed in smaller parts."""
    wanted = WANTED.search(message)
    what = f"out of memory{f', where {wanted[1]} were asked for' if wanted else ''}"
    if "micro_batch" in flags:
        return (
            f"{what}; the same command with a smaller --micro-batch, or with --recompute, goes on from its checkpoint"
        )
    if "batch_size" in flags:
        return f"{what}; a smaller --batch-size needs less"
    return what


def fail(message: str, code: int) -> None:
    """Print one sentence on standard error, with the name of the process before it, and exit with `code`."""
    print(f"{speaker()}: {printable(' '.join(message.split()))}", file=StandardError())
    raise typer.Exit(code)


def sentence(message: Any, *_: Any, **__: Any) -> str:
    """A warning as a user reads it, without the line of code that gave it."""
    return f"warning: {' '.join(str(message).split())}\n"


def traceback_if_asked() -> None:
    if os.environ.get("WHISPERQ_DEBUG"):
        traceback.print_exc(file=sys.stderr)
