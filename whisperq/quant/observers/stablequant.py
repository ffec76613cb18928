"""StableQuant: the full range of all layers but the costly ones, which a search on a development list clips.

What a site's values alone tell is the full range, which the search starts from. `steps/calibrate.py` runs the search,
and puts what it finds in the place of these ranges; quant/stable.py has the equations.
"""

from whisperq.quant.observer import Observer
from whisperq.quant.observers.minmax import estimate

OBSERVER = Observer(estimate, needs_histogram=True, per_bitwidth=True)
