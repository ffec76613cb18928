"""ranges.json: of every site each batch's minimum and maximum, and the range that each observer makes of what it saw.

    {"observers": ["minmax", "mse"], "momentum": 0.9, "percentile": 99.999, "activation_bits": [8, 4],
     "sites": {"enc.0.fc1": {"ranges": {"minmax": [-3.1, 4.0], "mse": {"8": [-3.0, 3.9], "4": [-1.9, 2.2]}},
                             "minima": [-3.1, -2.9], "maxima": [4.0, 3.3]}, ...}}

The first observer is the calibration's own. Ranges that are for a number of bits stand under it. A range that
mathematics knows is every observer's, and stands under "known" too: probabilities have [0, 1], and a gate
sigmoid(G(x)) / pi_init has [0, 1 / pi_init], and a log-mel spectrogram the ends of its making (data/features.py), which
few calibrations reach: a quiet recording lies lower than a loud one. Probabilities are then not looked at at all.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from whisperq.errors import InputError
from whisperq.models.gated_whisper import Gate
from whisperq.models.sites import Site
from whisperq.quant.observers.minmax import minmax_range
from whisperq.quant.ranges import OBSERVERS, PER_BITWIDTH, Estimation, RangeEnds, SiteRange, check_observer
from whisperq.schema import Wrong, count, each, ends, items, maybe, number, one_of, read_json, record

RANGES = "ranges.json"
SPECTROGRAM = "enc.conv1:input"  # of a model that takes log-mel spectrograms


def known_range(model: nn.Module, site: Site, features: RangeEnds | None = None) -> RangeEnds | None:
    """The range of a site that follows from the model, whatever the data; None where it depends on the data.

    features: the range of the model's input features; None where it is not bounded, as for waveforms.
    """
    if site.component == "probs":
        return 0.0, 1.0
    if site.address == SPECTROGRAM:
        return features
    module = model.get_submodule(site.module)
    return (0.0, 1.0 / module.pi_init) if isinstance(module, Gate) and site.component == "gate" else None


def write_ranges(
    observed: Mapping[str, SiteRange], how: Estimation, folder: Path, found: Mapping[int, Mapping[str, RangeEnds]] = {}
) -> dict[str, RangeEnds]:
    """found: what stablequant's search found, by bits and site. Returns the calibration's own ranges."""
    sites = {address: one.as_dict(how) for address, one in observed.items()}
    for bits, ranges in found.items():
        for address, chosen in ranges.items():
            sites[address]["ranges"]["stablequant"][str(bits)] = chosen
    content = asdict(how) | {
        "activation_bits": how.bits if {*how.observers} & {*PER_BITWIDTH} else None,
        "sites": sites,
    }
    del content["bits"]
    (folder / RANGES).write_text(json.dumps(content) + "\n")
    return {address: _of(entry, how.observers[0], how.bits[0]) for address, entry in sites.items()}


def read_ranges(folder: Path) -> dict[str, Any]:
    """Raises InputError for ranges in another form, as earlier versions wrote them."""
    content = read_json(folder / RANGES, record({}), REMEDY)
    if "observers" not in content:
        raise InputError(f"{folder} is of an earlier version of whisperq; run whisperq calibrate --force first")
    return read_json(folder / RANGES, _ranges, REMEDY)


REMEDY = "run whisperq calibrate --force first"
CONTENT = record(
    {
        "observers": items(one_of(*OBSERVERS)),
        "momentum": number(0.0, 1.0),
        "sites": each(
            record({"ranges": record({}), "minima": items(number()), "maxima": items(number())}, {"known": ends})
        ),
    },
    {"percentile": number(0.0, 100.0), "activation_bits": maybe(items(count(2, 16)))},
)


def _ranges(value: Any, place: str) -> None:
    """What all sites have, then of each the ranges of the observers that there are, and as many minima as maxima."""
    CONTENT(value, place)
    if not value["observers"]:
        raise Wrong("observers is empty")
    by_bits = record({str(bits): ends for bits in value.get("activation_bits") or ()})
    ranges = record({observer: by_bits if observer in PER_BITWIDTH else ends for observer in value["observers"]})
    for address, site in value["sites"].items():
        ranges(site["ranges"], f"sites.{address}.ranges")
        pairs = [list(pair) for pair in zip(site["minima"], site["maxima"], strict=False)]
        if len(site["minima"]) != len(site["maxima"]) or not pairs:
            raise Wrong(f"sites.{address}.maxima must be as many as its minima, at least one")
        for i, pair in enumerate(pairs):
            ends(pair, f"sites.{address}.minima and maxima.{i}")


def chosen_observer(folder: Path, wanted: str | None) -> str:
    """The one that is wanted, else the calibration's own; minmax is known of every calibration, from the batches' ends.

    Raises InputError for one that the calibration has no ranges of, UsageError for one that there is not.
    """
    if wanted is not None:
        check_observer(wanted)
    held = read_ranges(folder)["observers"]
    if wanted == "minmax":
        return wanted
    if wanted is not None and wanted not in held:
        raise InputError(
            f"{folder} holds ranges of {', '.join(held)}, not of {wanted}; choose one that it holds, "
            f"or run whisperq calibrate --observer {wanted} --force first"
        )
    return wanted or held[0]


def site_ranges(folder: Path, sites: Iterable[str], observer: str, bits: int) -> dict[str, RangeEnds]:
    """The ranges of these sites. Raises InputError for one that was not observed, and for bits not asked for."""
    content = read_ranges(folder)
    if observer in PER_BITWIDTH and bits not in content["activation_bits"]:
        made_for = ", ".join(map(str, content["activation_bits"]))
        raise InputError(
            f"{folder} chose the ranges of {observer} for {made_for} bits, not {bits}; "
            f"run whisperq calibrate --observer {observer} --activation-bits {bits} --force first"
        )
    absent = [a for a in sites if a not in content["sites"]]
    if absent:
        raise InputError(
            f"{folder} has no range for {absent[0]} ({len(absent)} sites in all); "
            "run whisperq calibrate without --sites, or --exclude them"
        )
    return {a: _of(content["sites"][a], observer, bits) for a in sites}


def _of(entry: Mapping[str, Any], observer: str, bits: int) -> RangeEnds:
    if observer == "minmax":
        if "known" in entry:
            return tuple(entry["known"])
        return minmax_range(entry["minima"], entry["maxima"])
    found = entry["ranges"][observer]
    return tuple(found[str(bits)] if observer in PER_BITWIDTH else found)
