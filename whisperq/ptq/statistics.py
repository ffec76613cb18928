"""What a calibration keeps of each product's input beside its range: every channel's ends, and a sample of rows.

channel_maxima.safetensors holds <site>.minima and <site>.maxima, (batches, K), and <site>.rows, (rows, width * K),
float16 or, of values beyond its range, float32. With these quantize searches scales and wide channels
(quant/scale_search.py) without any audio.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from whisperq.errors import InputError
from whisperq.models.sites import Site, Watcher, model_sites
from whisperq.ptq.plan import make_plan
from whisperq.quant.ranges import SiteRange
from whisperq.quant.reading import Later, explained
from whisperq.quant.row_sample import RowSample, Window
from whisperq.quant.scale_search import Observed
from whisperq.quant.smoothing import ChannelExtrema

CHANNELS = "channel_maxima.safetensors"
REMEDY = "run whisperq calibrate --channel-maxima --force first"


def product_inputs(model: PreTrainedModel) -> list[str]:
    """Sites whose channels are worth keeping: what products take in, but for a grouped convolution's."""
    sites = model_sites(model)
    modules = {a: model.get_submodule(sites[a].module) for a in make_plan(model, "gemm").activations}
    return [a for a, module in modules.items() if not (isinstance(module, nn.Conv1d) and module.groups > 1)]


def channel_sites(model: PreTrainedModel) -> list[str]:
    """Sites of which every channel's ends are worth keeping: all but attention's inner ones and gates."""
    return [a for a, site in model_sites(model).items() if site.component not in ("scores", "probs", "gate")]


def row_sample(model: PreTrainedModel, address: str, each: int) -> RowSample:
    """Ready for a site's first batch; `each`: rows of a recording."""
    module = model.get_submodule(model_sites(model)[address].module)
    return RowSample(each, Window.of(module) if isinstance(module, nn.Conv1d) else None)


def watcher(
    observers: Sequence[SiteRange | ChannelExtrema | RowSample],
    site: Site,
    lengths: Mapping[str, Sequence[int]],
    utterances: str,
    number: int,
    later: Later,
) -> Watcher:
    """What shows a batch's tensor to a site's observers. lengths: of the batch, by axis; number: the batch's.

    They take in what they saw when `later` is read. Then InputError, with the batch's utterances, is raised where the
    tensor holds NaN or infinity.
    """

    def told(error: ValueError) -> InputError:
        return InputError(f"{site.address} holds {error} in the batch of {utterances}")

    def see(x: Tensor) -> None:
        try:
            for observer in observers:
                one_by_one = isinstance(observer, RowSample)
                tensors = site.utterances(x, lengths) if one_by_one else site.parts(x, lengths)
                if site.time and not isinstance(observer, SiteRange):  # (..., channels, time)
                    tensors = (tensor.mT for tensor in tensors)
                observer.observe(tensors, number, explained(later, told))
        except ValueError as error:
            raise told(error) from error

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
    """Minima, maxima and rows of those `sites` that the calibration kept. Raises InputError for an unreadable file."""
    tensors = _tensors(folder)
    return {
        s: Observed(*(tensors[f"{s}.{part}"] for part in ("minima", "maxima", "rows")))
        for s in sites
        if f"{s}.rows" in tensors
    }


def check_widths(model: PreTrainedModel, folder: Path) -> None:
    """Raises InputError for statistics of other channels than the model's sites have."""
    sites = model_sites(model)
    for name, tensor in _tensors(folder).items():
        address, kind = name.rsplit(".", 1)
        if address not in sites:
            continue
        module = model.get_submodule(sites[address].module)
        ways = ("in_features", "in_channels") if sites[address].is_input else ("out_features", "out_channels")
        width = next((getattr(module, way) for way in ways if hasattr(module, way)), None)
        if isinstance(module, nn.LayerNorm):
            width = module.normalized_shape[0]
        if kind == "rows" and isinstance(module, nn.Conv1d) and width is not None:
            width *= module.kernel_size[0]
        if width not in (None, tensor.shape[1]):
            raise InputError(
                f"{folder / CHANNELS} is damaged: {name} has {tensor.shape[1]} channels, not {width}; {REMEDY}"
            )


def _tensors(folder: Path) -> dict[str, Tensor]:
    """Raises InputError for a file that cannot be read, or holds what no calibration keeps."""
    path = folder / CHANNELS
    try:
        tensors = load_file(path) if path.exists() else {}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    for name, tensor in tensors.items():
        site, _, kind = name.rpartition(".")
        other = tensors.get(f"{site}.maxima")
        if kind not in ("minima", "maxima", "rows") or tensor.dim() != 2 or not tensor.is_floating_point():
            problem = f"{name} is {tensor.dtype} {list(tensor.shape)}, but must be minima, maxima or rows of floats"
        elif not tensor.isfinite().all():
            problem = f"{name} holds NaN or infinite values"
        elif f"{site}.minima" not in tensors or other is None:
            problem = f"{site} has no minima or no maxima"
        elif kind == "minima" and (other.shape != tensor.shape or 0 in tensor.shape or (tensor > other).any()):
            problem = f"{site}.minima and maxima are no ends of the same channels"
        elif kind == "rows" and tensor.shape[1] % max(1, other.shape[-1]):
            problem = f"{name} has rows of {tensor.shape[1]} values, of {other.shape[-1]} channels"
        else:
            continue
        raise InputError(f"{path} is damaged: {problem}; {REMEDY}")
    return tensors
