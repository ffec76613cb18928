"""Standard error, whose reader may be gone: a terminal that closed, or a `tee` that the same Ctrl-C ended.

What is said there ends no work, nor keeps a training from saving what it has.
"""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

GONE = (errno.EPIPE, errno.EIO)  # a pipe nobody reads any more, a terminal that is closed


@contextmanager
def unheard() -> Iterator[None]:
    """Inside, writing to standard error fails in silence; once nobody can read it any more, it goes to /dev/null.

    So nothing is left over that Python could not write at its end, which would change the exit code.
    """
    try:
        yield
    except OSError as error:
        if error.errno in GONE:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.close(nowhere)


class StandardError:
    """`sys.stderr` as it is at the moment, as a text file that raises no OSError."""

    def write(self, text: str) -> int:
        with unheard():
            _present().write(text)
        return len(text)

    def flush(self) -> None:
        with unheard():
            _present().flush()

    def __getattr__(self, name: str) -> Any:
        if name == "rich_proxied_file":  # by which rich would go around this
            raise AttributeError(name)
        return getattr(_present(), name)


def _present() -> Any:
    """The file itself: while a bar is drawn, `sys.stderr` is one that prints above it, by way of us."""
    return getattr(sys.stderr, "rich_proxied_file", sys.stderr)
