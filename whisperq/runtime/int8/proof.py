"""Kernels prove themselves when a model is opened: what they compute from seeded inputs, against exact arithmetic.

A wrong kernel does not crash. It writes fluent, wrong transcripts, so that it is found here or nowhere. Each product is
tried in every form that there is, with one row and with more than kernels for few rows take, on its own codes:

    |found - exact| <= allowed      exact: integers in float64; allowed: what rounding to float32 or to codes explains

Norms, quantization and attention are compared with PyTorch's operators on the CPU. On a CPU all of it takes
a fraction of a second, most of that for the exact sums. On a GPU kernels are compiled for it the first time, and the
whole model is compared with the CPU's.
"""

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from whisperq.errors import KernelError
from whisperq.quant.grid import QParams
from whisperq.runtime.int8.dynamic import TokenCodes, TokenGrid
from whisperq.runtime.int8.grids import Grid, signed_qparams
from whisperq.runtime.int8.kernels import AnyCodes, AnyGrid, Cache, GateLogits, Heads, Kernels, Norm
from whisperq.runtime.int8.matmuls import IntegerWeight, Matmul
from whisperq.runtime.int8.torch_kernels import TorchKernels
from whisperq.runtime.int8.wide_matmuls import WideGrid

SEED = 0
ROWS = (1, 17)  # few and, but for kernels that take more of them, many
COLUMNS = 2048  # outputs that are compared, of more drawn ones
ROUNDING = 1e-5  # of a bound of the product, the norms of its row and column: float32 and its order of adding up
HALF = 2.0**-8  # of a value: bfloat16
CODE = 0.51  # of a step: a value between two codes goes to either
NEAR = 3e-2  # of the largest value: attention in bfloat16, and of keys and values in eight bits
MANY = 130  # rows on a GPU, which computes more of them in larger tiles
# Relative errors of a whole model on two devices, which round in different places: of the encoder's output (up to 0.1
# between two right ways on a CPU) and of logits (up to 0.4). A wrong encoder had 1.08.
ALIKE = (0.2, 0.7)
ATTENDED = (2, 70)  # utterances and positions: more than one, and more than a kernel takes at a time
NEW = 4  # queries of each utterance against its cache, as a prompt has them
PLAIN = TorchKernels()


@dataclass(frozen=True)
class Trial:
    """One product's input: as the kernel takes it, and what it stands for, float64 (rows, K)."""

    x: AnyCodes
    values: Tensor


def prove_matmul(
    matmul: Matmul,
    weight: IntegerWeight,
    grid: AnyGrid,
    device: str,
    plain: bool = False,
    dtype: torch.dtype = torch.bfloat16,
    most_rows: int = 0,
) -> None:
    """weight: what `matmul` was made of; grid: of its input; plain: it neither adds to a sum nor applies GELU.

    most_rows: beyond these it hands over to another, which is tried, too.
    dtype: what the product is asked for beside float32. A CPU without bfloat16 has a kernel that takes seconds for it.
    Raises KernelError, which names kernel, shape, device and versions.
    """
    numbers = torch.Generator().manual_seed(SEED)
    outputs, inputs = weight.codes.shape
    columns = torch.arange(outputs)
    if outputs > COLUMNS:
        columns = torch.randperm(outputs, generator=numbers)[:COLUMNS].sort().values
    scaled = weight.codes[columns].double() * weight.scale[columns].double().cpu()[:, None]
    bias = weight.bias.double().cpu()[columns]
    beyond = (most_rows + 1,) if most_rows >= max(ROWS) else ()
    for rows in (*ROWS, *beyond) if device == "cpu" else (*ROWS, MANY):
        trial = _trial(grid, rows, inputs, device, numbers)
        exact = trial.values @ scaled.T + bias
        magnitude = trial.values.norm(dim=1)[:, None] * scaled.norm(dim=1) + bias.abs()
        forms = list(_plain_forms(matmul, trial, exact, magnitude, dtype))
        forms += [] if plain else _other_forms(matmul, trial, grid, exact, magnitude, outputs, columns)
        for form, found, wanted, allowed in forms:
            found = found[:, columns] if found.shape[1] == outputs else found
            _require(found, wanted, allowed, f"{type(matmul).__name__}, {rows} x {inputs} -> {outputs}{form}", device)


def _trial(grid: AnyGrid, rows: int, inputs: int, device: str, numbers: torch.Generator) -> Trial:
    """Codes over the whole range; of several rows the first are the range's ends, where sums are largest."""
    if isinstance(grid, Grid):
        codes = torch.randint(grid.quant_min, grid.quant_max + 1, (rows, inputs), generator=numbers).to(grid.dtype)
        if rows > 2:
            codes[0], codes[1] = grid.quant_min, grid.quant_max
        return Trial(codes.to(device), grid.scale * (codes.double() - grid.zero_point))
    x = torch.randn(rows, inputs, generator=numbers)
    if isinstance(grid, TokenGrid):
        token = grid.codes(x)
        values = token.scale.double()[:, None] * (token.codes.double() - token.zero_point[:, None])
        return Trial(TokenCodes(*(t.to(device) for t in (token.codes, token.scale, token.zero_point))), values)
    wide: WideGrid = grid
    x = wide.rounded(x * float(wide.wide.scale) * wide.wide.quant_max / 8)
    return Trial(x.to(device), x.double())


Form = tuple[str, Tensor, Tensor, Tensor]  # what was asked for, what came, what is exact, and how far off it may be


def _plain_forms(matmul: Matmul, trial: Trial, exact: Tensor, magnitude: Tensor, dtype: torch.dtype) -> Iterator[Form]:
    rounding = ROUNDING * magnitude
    yield "", matmul(trial.x), exact, rounding
    if dtype == torch.bfloat16:
        yield " in bfloat16", matmul(trial.x, dtype), exact, HALF * exact.abs() + rounding


def _other_forms(
    matmul: Matmul, trial: Trial, grid: AnyGrid, exact: Tensor, magnitude: Tensor, outputs: int, columns: Tensor
) -> Iterator[Form]:
    device = trial.x.codes.device if isinstance(trial.x, TokenCodes) else trial.x.device
    rounding = ROUNDING * magnitude
    start = torch.linspace(-1, 1, len(exact) * outputs).view(-1, outputs) * float(magnitude.max())
    kept = start[:, columns].double()
    yield " added to a sum", matmul.add(trial.x, start.to(device)), exact + kept, ROUNDING * (magnitude + kept.abs())
    activated = F.gelu(exact)
    yield " with GELU", matmul.gelu(trial.x, None), activated, 2 * rounding
    if len(columns) == outputs:  # a row's own grid hangs on all of its values
        target: AnyGrid = TokenGrid(8, grid.signed) if isinstance(grid, TokenGrid) else _grid_of(activated, grid.signed)
        codes = matmul.gelu(trial.x, target)
        step = codes.scale.double().cpu()[:, None] if isinstance(codes, TokenCodes) else target.scale
        yield " with GELU as codes", target.values(codes), activated, CODE * step + 2 * rounding


def _grid_of(x: Tensor, signed: bool) -> Grid:
    """One that holds these values, on 8 bits."""
    low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
    scale = max(high - low, 1e-6) / 255
    grid = QParams(torch.tensor(scale), torch.tensor(round(-low / scale), dtype=torch.int32), 0, 255)
    return Grid(signed_qparams(grid) if signed else grid)


def prove_kernels(kernels: Kernels, heads: Heads, dtype: torch.dtype, device: str) -> None:
    """What is no product, of an attention block of this size; dtype: of queries, keys and values.

    Raises KernelError, which names kernel, shape, device and versions.
    """
    numbers, rows, width = torch.Generator().manual_seed(SEED), max(ROWS), heads.count * heads.dim
    shape = f", {rows} x {width}"
    x = torch.randn(rows, width, generator=numbers)
    norm = Norm(1 + 0.1 * torch.randn(width, generator=numbers), 0.1 * torch.randn(width, generator=numbers))
    for found, wanted, allowed in _quantized(kernels, x, norm, device):
        _require(found, wanted, allowed, f"a norm or its quantization{shape}", device)
    rows = ATTENDED[0] * ATTENDED[1]
    qkv = torch.randn(rows, 3 * width + heads.count, generator=numbers)  # as a product lays them out: gates behind
    gate = GateLogits(torch.randn(rows, heads.count, generator=numbers), 2.0)
    for found, wanted in _attended(kernels, qkv, gate, heads, dtype, device):
        allowed = torch.full_like(wanted, NEAR * float(wanted.abs().max()))
        _require(found, wanted, allowed, f"attention, {rows} x {width}", device)


def _quantized(kernels: Kernels, x: Tensor, norm: Norm, device: str) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """What came, what PyTorch's operators give, and how far both may be apart; x (rows, width)."""
    there = Norm(norm.weight.to(device), norm.bias.to(device), norm.epsilon)
    normed = PLAIN.layer_norm(x, norm, None).double()
    yield kernels.layer_norm(x.to(device), there, None), normed, torch.full_like(normed, 1e-4)
    static = _grid_of(torch.cat([x, normed.float()]), kernels.signed)
    grids: tuple[AnyGrid, ...] = (static, TokenGrid(8, kernels.signed))
    for grid in grids:
        for values, codes in (
            (normed, kernels.layer_norm(x.to(device), there, grid)),
            (x.double(), kernels.quantize(x.to(device), grid)),
        ):
            step = codes.scale.double().cpu()[:, None] if isinstance(codes, TokenCodes) else grid.scale
            yield grid.values(codes), values, torch.zeros_like(values) + CODE * step + 1e-4


def _attended(
    kernels: Kernels, qkv: Tensor, gate: GateLogits, heads: Heads, dtype: torch.dtype, device: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """What came, and what PyTorch's operators give in float32; qkv (rows, at least 3 * heads * head_dim)."""
    batch, moved = ATTENDED[0], GateLogits(gate.logits.to(device), gate.factor)
    for here, there in ((None, None), (gate, moved)):
        found = kernels.attention(qkv.to(device, dtype), batch, heads, there, None)
        yield found, PLAIN.attention(qkv, batch, heads, here, None).double()
    queries, keys, values = (part.contiguous() for part in qkv[:, : 3 * heads.count * heads.dim].chunk(3, dim=1))
    queries = queries.unflatten(0, ATTENDED)[:, -NEW:].flatten(0, 1)
    scales = tuple(part.abs().amax(dim=0) / 127 for part in (keys, values))
    for codes in (False, True):
        like = torch.empty(0, dtype=torch.int8 if codes else dtype, device=device)
        cache, plain = (Cache.empty(batch, heads, ATTENDED[1] + 1, x) for x in (like, torch.empty(0)))
        cache.scales = (scales[0].to(device), scales[1].to(device)) if codes else None
        given, causal = (torch.float32, 0) if codes else (dtype, NEW)
        kernels.append(keys.to(device, given), values.to(device, given), cache)
        PLAIN.append(keys, values, plain)
        found = kernels.attend(queries.to(device, dtype), cache, causal, heads, None, None)
        yield found, PLAIN.attend(queries, plain, causal, heads, None, None).double()


def require_alike(found: Sequence[Tensor], wanted: Sequence[Tensor], device: str) -> None:
    """found, wanted: what a whole model computes from one input, on `device` and on the CPU. Raises KernelError."""
    for number, (ours, theirs) in enumerate(zip(found, wanted, strict=True)):
        limit = ALIKE[min(number, 1)]
        error = float((ours.double().cpu() - theirs.double()).norm() / theirs.double().norm())
        if not error <= limit:
            raise KernelError(
                f"the model computes something else on {device} than on the CPU: a relative error of {error:.2g}, "
                f"where rounding explains {limit:g} ({_versions(device)}); run it with --device cpu"
            )


def _require(found: Tensor, wanted: Tensor, allowed: Tensor, what: str, device: str) -> None:
    off = (found.double().cpu() - wanted).abs()
    bad = ~(off <= allowed)  # of what is not a number, too
    if bad.any():
        raise KernelError(
            f"{what} on {device} computes wrong numbers: {int(bad.sum())} of {bad.numel()} values are off, the worst "
            f"by {float(off[bad].max()):.3g} where rounding explains {float(allowed[bad].max()):.3g} "
            f"({_versions(device)}); --runtime emulated computes the same model in float"
        )


def _versions(device: str) -> str:
    name = torch.cuda.get_device_name() if device.startswith("cuda") else torch.backends.cpu.get_cpu_capability()
    return f"torch {torch.__version__}, {name}, {platform.machine()}"
