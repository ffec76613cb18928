"""What whisperq has one file for each of: its names are the files' names.

So a range estimator or a step is added by adding its file, and the command line knows the names without importing
them, which would load torch.
"""

import os
from pkgutil import iter_modules


def modules(package: str, first: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The modules of a package of whisperq such as quant/observers: those of `first`, then the others by name.

    One whose name begins with an underscore is a helper of the others.
    """
    folder = os.path.join(os.path.dirname(__file__), *package.split("/"))
    found = sorted(module.name for module in iter_modules([folder]) if not module.name.startswith("_"))
    return (*(name for name in first if name in found), *(name for name in found if name not in first))


# Help and messages name these five in this order, and further ones behind them.
OBSERVERS = modules("quant/observers", ("ema", "minmax", "percentile", "mse", "stablequant"))
# The order of the commands on the help page.
DECLARED = modules("declared", ("students", "integers", "errors", "uses"))
STEPS = modules("steps")
