"""The steps' declarations, some to a file. A file added here adds its commands; nothing else names them."""

from importlib import import_module

from whisperq.declaration import Declaration
from whisperq.registered import DECLARED as FILES

DECLARED: tuple[Declaration, ...] = tuple(
    one for name in FILES for one in import_module(f"whisperq.declared.{name}").DECLARED
)
SETTINGS: dict[str, type] = {one.name: one.settings for one in DECLARED}


def declaration_of(step: str) -> Declaration:
    """The declaration of the step whose file has this name."""
    return next(one for one in DECLARED if one.step == step)
