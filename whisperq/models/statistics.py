"""What a calibration keeps of each product's input beside its range: every channel's ends, and a sample of rows.

channel_maxima.safetensors holds <site>.minima and <site>.maxima, (batches, K), and <site>.rows, (rows, width * K),
float16. With these quantize searches scales and wide channels (quant/scale_search.py) without any audio.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from whisperq.errors import InputError
from whisperq.models.plan import make_plan
from whisperq.models.sites import Site, Watcher, model_sites
from whisperq.quant.ranges import SiteRange
from whisperq.quant.row_sample import RowSample, Window
from whisperq.quant.scale_search import Observed
from whisperq.quant.smoothing import ChannelExtrema

CHANNELS = "channel_maxima.safetensors"
REMEDY = "run whisperq calibrate --channel-maxima --force first"


def product_inputs(model: nn.Module) -> list[str]:
    """Sites whose channels are worth keeping: what products take in, but for a grouped convolution's."""
    sites = model_sites(model)
    modules = {a: model.get_submodule(sites[a].module) for a in make_plan(model, "gemm").activations}
    return [a for a, module in modules.items() if not (isinstance(module, nn.Conv1d) and module.groups > 1)]


def channel_sites(model: nn.Module) -> list[str]:
    """Sites of which every channel's ends are worth keeping: all but attention's inner ones and gates."""
    return [a for a, site in model_sites(model).items() if site.component not in ("scores", "probs", "gate")]


def row_sample(model: nn.Module, address: str, each: int) -> RowSample:
    """Ready for a site's first batch; `each`: rows of a recording."""
    module = model.get_submodule(model_sites(model)[address].module)
    return RowSample(each, Window.of(module) if isinstance(module, nn.Conv1d) else None)


def watcher(
    observers: Sequence[SiteRange | ChannelExtrema | RowSample],
    site: Site,
    lengths: Mapping[str, Sequence[int]],
    utterances: str,
    number: int,
) -> Watcher:
    """What shows a batch's tensor to a site's observers. lengths: of the batch, by axis; number: the batch's.

    Raises InputError, with the batch's utterances, where the tensor holds NaN or infinity.
    """

    def see(x: Tensor) -> None:
        try:
            for observer in observers:
                one_by_one = isinstance(observer, RowSample)
                tensors = site.utterances(x, lengths) if one_by_one else site.parts(x, lengths)
                if site.time and not isinstance(observer, SiteRange):  # (..., channels, time)
                    tensors = (tensor.mT for tensor in tensors)
                observer.observe(tensors, number)
        except ValueError as error:
            raise InputError(f"{site.address} holds {error} in the batch of {utterances}") from error

    return see


def write_statistics(channels: Mapping[str, ChannelExtrema], rows: Mapping[str, RowSample], folder: Path) -> None:
    tensors = {f"{site}.rows": sample.rows for site, sample in rows.items()}
    for site, extrema in channels.items():
        tensors |= {f"{site}.minima": torch.stack(extrema.minima), f"{site}.maxima": torch.stack(extrema.maxima)}
    save_file(tensors, folder / CHANNELS)


def has_rows(folder: Path) -> bool:
    """Whether the calibration can be searched; those of earlier versions cannot."""
    return any(name.endswith(".rows") for name in _tensors(folder))


def held_channels(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Minima and maxima (batches, K) of every site that has them. Raises InputError for a broken file."""
    tensors = _tensors(folder)
    sites = [name.removesuffix(".minima") for name in tensors if name.endswith(".minima")]
    return {s: (tensors[f"{s}.minima"], tensors[f"{s}.maxima"]) for s in sites}


def read_channels(folder: Path, sites: list[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """Minima and maxima (batches, K) of each of these sites. Raises InputError where there are none."""
    held = held_channels(folder)
    absent = [s for s in sites if s not in held]
    if sites and len(absent) == len(sites):
        raise InputError(f"{folder} has no maxima of channels, which smoothing needs; {REMEDY}")
    if absent:
        raise InputError(f"{folder} has no maxima of the channels of {absent[0]}; {REMEDY}, without --sites")
    return {s: held[s] for s in sites}


def read_observed(folder: Path, sites: Iterable[str]) -> dict[str, Observed]:
    """Of those of the sites that the calibration kept. Raises InputError for a file that cannot be read."""
    tensors = _tensors(folder)
    return {
        s: Observed(*(tensors[f"{s}.{part}"] for part in ("minima", "maxima", "rows")))
        for s in sites
        if f"{s}.rows" in tensors
    }


def _tensors(folder: Path) -> dict[str, Tensor]:
    try:
        return load_file(folder / CHANNELS) if (folder / CHANNELS).exists() else {}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder / CHANNELS} cannot be read: {error}") from error
