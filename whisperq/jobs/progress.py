"""Progress bars and announcements, all on standard error; of several processes at one task the first one's.

Where Python calls a step, announcements go to the log `whisperq` and no bar is drawn, unless it asks for them.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import IO, Any, Literal, TypeVar, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.text import Text

from whisperq.disk import first_process
from whisperq.names import printable
from whisperq.standard_error import StandardError

Where = Literal["shown", "logged", "dropped"]

console = Console(stderr=True, file=cast(IO[str], StandardError()))
log = logging.getLogger("whisperq")
log.addHandler(logging.NullHandler())  # else Python shows the warnings of a log that nobody has set up
_where: ContextVar[Where] = ContextVar("where", default="shown")
T = TypeVar("T")
NAMED = 20  # utterances, before the rest is a number


class DescriptionColumn(ProgressColumn):
    """What is done, as text: it may name a test set."""

    def render(self, task: Task) -> Text:
        return Text(printable(task.description))


class RateColumn(ProgressColumn):
    """Items each second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} {task.fields['unit']}/s")


def bar() -> Progress:
    """A bar with rate and time left; silent where standard error is neither a terminal nor a notebook's."""
    visible = (console.is_terminal or console.is_jupyter) and first_process() and _where.get() == "shown"
    return Progress(
        DescriptionColumn(),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not visible,
    )


def track(items: Iterable[T], total: int, description: str, unit: str) -> Iterator[T]:
    with bar() as progress:
        task = progress.add_task(description, total=total, unit=unit)
        for item in items:
            yield item
            progress.advance(task)


@contextmanager
def stepping(name: str, total: int, done: int) -> Iterator[Callable[[str], None]]:
    """A training's bar; what is yielded moves it on by a step, with a word on that."""
    with bar() as progress:
        task = progress.add_task(name, total=total, completed=done, unit="steps")
        yield lambda word: progress.update(task, advance=1, description=f"{name}: {word}")


def say_how(runtime: Any) -> None:
    """Announce what runs a model, how much of it in integers, and its notices to the user."""
    say(f"runtime: {runtime.name}, {runtime.products()}")
    for notice in runtime.notices:
        say(f"notice: {notice}")


def say_again(windows: int) -> None:
    """Announce, at the end of a command, how many windows --padding short had to decode again."""
    if windows:
        say(f"padding: {windows:,} windows were decoded again in full")


def say_left_out(origins: Iterable[str]) -> None:
    """Announce, at the end of a command, which utterances --skip-bad left out."""
    if names := list(dict.fromkeys(origins)):
        more = f"; and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
        say(f"left out as unusable, {len(names):,}: {'; '.join(names[:NAMED])}{more}")


@contextmanager
def announced(where: Where) -> Iterator[None]:
    """Context that sets where announcements go, and whether progress bars are drawn."""
    token = _where.set(where)
    try:
        yield
    finally:
        _where.reset(token)


def silence() -> AbstractContextManager[None]:
    """Nothing is announced: what is tried out has been announced before, or will be."""
    return announced("dropped")


def say(text: str) -> None:
    """Announce one line, such as which model was chosen."""
    if not first_process():
        return
    if _where.get() == "shown":
        console.print(printable(text), highlight=False, markup=False, soft_wrap=True)
    elif _where.get() == "logged":
        log.log(logging.WARNING if text.startswith("warning: ") else logging.INFO, "%s", printable(text))
