"""Tables and figures of many artifacts; the only place that imports matplotlib.

The package has the name of a command, and `whisperq.report(...)` is that command's call.
"""

import sys
from types import ModuleType
from typing import Any

from whisperq import command


class _Called(ModuleType):
    """A package that can be called."""

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return command("report")(*arguments, **keywords)

    @property
    def __signature__(self) -> Any:
        return command("report").__signature__


sys.modules[__name__].__class__ = _Called
