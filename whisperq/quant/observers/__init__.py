"""Range estimators, one file each: from what calibration saw of a site to the range that its grid must cover.

A file added here is an observer of its name, for `calibrate --observer` and `quantize --observer`; nothing else names
it. It declares OBSERVER, an `Observer` (quant/observer.py).
"""

from importlib import import_module

from whisperq.quant.histogram import Histogram
from whisperq.quant.observer import Observer
from whisperq.quant.observers.ema import ema_range
from whisperq.quant.observers.minmax import minmax_range
from whisperq.quant.observers.mse import mse_range
from whisperq.quant.observers.percentile import percentile_range
from whisperq.registered import OBSERVERS as NAMES

__all__ = ["Histogram", "OBSERVERS", "ema_range", "minmax_range", "mse_range", "percentile_range"]

OBSERVERS: dict[str, Observer] = {name: import_module(f"whisperq.quant.observers.{name}").OBSERVER for name in NAMES}
