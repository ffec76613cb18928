"""A quantized model's tensors and grids, checked as the model is opened: nothing else in `runtime` looks at them again.

What config.json asks for (`models.headers`) says which tensors there must be, of which shape and number format;
qparams.json must be as `CONTENT` says, and its grids be of this network's weights and sites. Then the values: floats
are finite, scales positive, zero_points and codes on their grids. Kernels in C++ trust all of that.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedConfig

from whisperq.errors import InputError
from whisperq.models.families import tied_names
from whisperq.models.headers import FLOATS, Expected, Held, all_finite, expected_of, headers
from whisperq.models.weight_files import QUANTIZED
from whisperq.ptq.folding import SCALES
from whisperq.ptq.plan import CONVOLVED
from whisperq.quant.packing import packed_size, unpack
from whisperq.quant.wide import WIDE
from whisperq.schema import FINITE, REMEDY, Wrong, count, each, either, ends, items, one_of, read_json, record

QPARAMS = "qparams.json"
CHANNEL_SCALE = ".channel_scale"
GRANULARITIES = ("per-tensor", "per-channel", "per-group")

SYMMETRIC = [2 ** (bits - 1) - 1 for bits in range(2, 9)]
ASYMMETRIC = [2**bits - 1 for bits in range(2, 9)]


WEIGHT = either(
    record({"quant_min": one_of(*(-n for n in SYMMETRIC)), "quant_max": one_of(*SYMMETRIC)}),
    record({"quant_min": one_of(0), "quant_max": one_of(*ASYMMETRIC)}),
)
STORED = record(
    {"granularity": one_of(*GRANULARITIES)},
    {"group": count(1), "bits": count(2, 8), "shape": items(count(1))},
)
RANGE = {"quant_min": one_of(0), "range": ends}
STATIC = record(
    {**RANGE, "quant_max": one_of(*ASYMMETRIC, 2**WIDE - 1), "granularity": one_of("per-tensor")},
    {"a16": record({**RANGE, "quant_max": one_of(2**WIDE - 1), "channels": items(count())})},
)
PER_TOKEN = record({"quant_min": one_of(0), "quant_max": one_of(*ASYMMETRIC), "granularity": one_of("per-token")})
CACHE = record({"quant_min": one_of(-127), "quant_max": one_of(127)})


def _weight(value: Any, place: str) -> None:
    STORED(value, place)
    WEIGHT(value, place)
    if (value["granularity"] == "per-group") != ("group" in value):
        raise Wrong(f"{place}.group must be there for per-group scales, and for no others")
    bits = (value["quant_max"] - value["quant_min"]).bit_length()
    if (bits < 8) != ("shape" in value) or value.get("bits", bits) != bits or ("bits" in value) != ("shape" in value):
        raise Wrong(f"{place} needs bits {bits} and a shape, where codes have fewer than 8 bits, and neither else")


def _activation(value: Any, place: str) -> None:
    dynamic = isinstance(value, dict) and value.get("granularity") == "per-token"
    (PER_TOKEN if dynamic else STATIC)(value, place)


CONTENT = record({"weights": each(_weight), "activations": each(_activation)}, {"caches": each(CACHE)})


def read_qparams(folder: Path, config: PreTrainedConfig) -> dict[str, Any]:
    """A quantized model's grids, once they and all its tensors are found to be what they must. Raises InputError."""
    if not (folder / QPARAMS).is_file():
        raise InputError(f"{folder} holds quantized weights without their grids: it has no {QPARAMS}")
    content = read_json(folder / QPARAMS, CONTENT)
    expected, held = expected_of(folder, config), headers([folder / QUANTIZED])
    try:
        _check_addresses(content, expected, config)
    except Wrong as wrong:
        raise InputError(f"{folder / QPARAMS} is damaged: {wrong}; {REMEDY}") from None
    try:
        wanted = dict(_wanted(content, expected))
        _check_headers(wanted, held, expected, config)
        _check_values(folder / QUANTIZED, content)
    except Wrong as wrong:
        raise InputError(f"{folder / QUANTIZED} is damaged: {wrong}; {REMEDY}") from None
    if (folder / SCALES).exists():
        _check_scales(folder / SCALES, expected)
    return content


Wanted = tuple[tuple[int, ...], tuple[str, ...]]  # shape, and the number formats that it may have


def _check_addresses(content: Mapping[str, Any], expected: Expected, config: PreTrainedConfig) -> None:
    for name, grid in content["weights"].items():
        if name not in expected.weights:
            raise Wrong(f"weights.{name} is no weight of this model that can be quantized")
        if "shape" in grid and tuple(grid["shape"]) != expected.shapes[name]:
            raise Wrong(f"weights.{name}.shape is {grid['shape']}, but must be {list(expected.shapes[name])}")
    for address, grid in content["activations"].items():
        if address not in expected.sites:
            raise Wrong(f"activations.{address} is no site of this model")
        if grid["granularity"] == "per-token" and CONVOLVED.fullmatch(address):
            raise Wrong(f"activations.{address} is a convolution's input, which has no grid for each token")
        width = expected.width(address)
        channels = grid.get("a16", {}).get("channels")
        if channels is not None and (
            width is None or not channels or len({*channels}) < len(channels) or max(channels) >= width
        ):
            raise Wrong(f"activations.{address}.a16.channels must be some of the site's {width or 'no'} channels")
    caches = content.get("caches", {})
    if caches:
        pairs = (f"dec.{i}.cross.{name}" for i in range(config.decoder_layers) for name in ("k_proj", "v_proj"))
        if strange := {*caches} - {*pairs}:
            raise Wrong(f"caches.{min(strange)} is no key or value that this model's decoder keeps")
        for address in caches:
            if (other := address[:-6] + ("v_proj" if address.endswith("k_proj") else "k_proj")) not in caches:
                raise Wrong(f"caches.{other} is missing, beside {address}")


def _wanted(content: Mapping[str, Any], expected: Expected) -> Iterator[tuple[str, Wanted]]:
    """Every tensor of the file by name. Tied tensors are both among them, though one suffices."""
    weights = content["weights"]
    for name, shape in expected.shapes.items():
        if name not in weights:
            yield name, (shape, ("I64", "I32") if name in expected.whole else FLOATS)
    for name, grid in weights.items():
        shape, bits = expected.shapes[name], (grid["quant_max"] - grid["quant_min"]).bit_length()
        signed = grid["quant_min"] < 0 and bits == 8
        scales = _scales_shape(shape, expected.weights[name].channel_dims, grid)
        yield name, (shape if bits == 8 else (packed_size(math.prod(shape), bits),), ("I8" if signed else "U8",))
        yield f"{name}.scale", (scales, ("F32",))
        if grid["quant_min"] == 0:
            yield f"{name}.zero_point", (scales, ("I32",))
    for address in content.get("caches", {}):
        context = f"{address.removesuffix(address.rsplit('.', 1)[1])}context"
        if (width := expected.width(context)) is None:
            raise Wrong(f"{context} is no site of this model whose channels have scales")
        yield f"{address}{CHANNEL_SCALE}", ((width,), ("F32",))


def _scales_shape(shape: tuple[int, ...], dims: int, grid: Mapping[str, Any]) -> tuple[int, ...]:
    if grid["granularity"] == "per-tensor":
        return ()
    if grid["granularity"] == "per-group":
        return (*shape[:dims], -(-math.prod(shape[dims:]) // grid["group"]))
    return (*shape[:dims], *(1 for _ in shape[dims:]))


def _check_headers(
    wanted: Mapping[str, Wanted], held: Mapping[str, Held], expected: Expected, config: PreTrainedConfig
) -> None:
    tied = set(tied_names(config))
    for name, (shape, formats) in wanted.items():
        if (one := held.get(name)) is None:
            if name in tied and tied & held.keys():
                continue
            raise Wrong(f"{name} is missing, which config.json and {QPARAMS} ask for")
        if one.shape != shape:
            by = f"config.json and {QPARAMS}"
            raise Wrong(f"{name} has the shape {list(one.shape)}, but must have {list(shape)} by {by}")
        if one.dtype not in formats:
            raise Wrong(f"{name} is of type {one.dtype}, but must be of type {' or '.join(formats)} by {QPARAMS}")
    if strange := held.keys() - wanted.keys():
        raise Wrong(f"{min(strange)} is no tensor of this model and its {QPARAMS}")


def check_floats(folder: Path, expected: Expected, held: Mapping[str, Held]) -> None:
    """Shapes and types of a float model's tensors, as far as it has them. Raises InputError."""
    for name, one in held.items():
        shape, whole = expected.shapes.get(name, one.shape), name in expected.whole
        if one.shape != shape or not (whole or name not in expected.shapes or one.dtype in FLOATS):
            found, wanted = f"{one.dtype} {list(one.shape)}", f"{' or '.join(FLOATS)} {list(shape)}"
            raise InputError(f"the weights of {folder} do not fit its config.json: {name} is {found}, not {wanted}")


def _check_values(path: Path, content: Mapping[str, Any]) -> None:
    """One tensor after the other: the file's pages are given back in between."""
    weights = content["weights"]
    with safe_open(path, "pt") as file:
        for name in file.keys():
            values, grid = file.get_tensor(name), weights.get(name)
            if grid is not None:
                _check_codes(name, values, grid)
            elif name.endswith(".zero_point"):
                _check_between(name, values, 0, weights[name.removesuffix(".zero_point")]["quant_max"])
            elif name.endswith(CHANNEL_SCALE) or (name.endswith(".scale") and name.removesuffix(".scale") in weights):
                check_positive(name, values)
            elif not all_finite(values):
                raise Wrong(f"{name} holds NaN or infinite values")


def _check_codes(name: str, codes: Tensor, grid: Mapping[str, Any]) -> None:
    low, high = grid["quant_min"], grid["quant_max"]
    if "shape" in grid:
        _check_between(name, unpack(codes, grid["bits"], grid["shape"]), 0, high - low)
    elif codes.dtype == torch.int8:  # an asymmetric grid of 8 bits is all of uint8
        _check_between(name, codes, low, high)


def _check_between(name: str, values: Tensor, low: int, high: int) -> None:
    least, greatest = (int(end) for end in values.aminmax())
    if least < low or greatest > high:
        raise Wrong(f"{name} has values from {least} to {greatest}, but by {QPARAMS} they go from {low} to {high}")


def check_positive(name: str, values: Tensor) -> None:
    """Scales: what is divided by them stays finite."""
    low, high = values.aminmax()
    if not torch.finfo(torch.float32).tiny <= float(low) <= float(high) <= FINITE:
        raise Wrong(f"{name} must hold finite numbers above zero, but goes from {float(low):g} to {float(high):g}")


def _check_scales(path: Path, expected: Expected) -> None:
    """smoothing.safetensors: the scales of sites that this model's weights take in."""
    held = headers([path])
    try:
        for site, one in held.items():
            width = expected.width(site)
            if width is None:
                raise Wrong(f"{site} is no site of this model whose channels can be scaled")
            if one.shape != (width,) or one.dtype != "F32":
                raise Wrong(f"{site} must be of type F32 and shape [{width}], not {one.dtype} and {list(one.shape)}")
        with safe_open(path, "pt") as file:
            for site in file.keys():
                check_positive(site, file.get_tensor(site))
    except Wrong as wrong:
        raise InputError(f"{path} is damaged: {wrong}; {REMEDY}") from None
