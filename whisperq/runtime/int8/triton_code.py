"""The kernels of triton_kernels.py themselves: one program for each row, or for each head of a row.

Triton compiles them when they are first used, once for each value of what is `tl.constexpr`.
"""

import triton
import triton.language as tl

from whisperq.runtime.int8.triton_matmuls import gelu_of, steps_of


@triton.jit
def store(
    value, out, scales, zero_points, row, columns, inside, scale, zero_point, quant_min, quant_max,
    WIDTH: tl.constexpr, CODES: tl.constexpr, TOKEN: tl.constexpr,
):  # fmt: skip
    """A row into `out`: floats, codes of the grid given, or codes of a grid of its own (quant.grid.token_qparams)."""
    place = out + row * WIDTH + columns
    if TOKEN:
        low = tl.min(tl.where(inside, tl.minimum(value, 0.0), 0.0), 0)
        high = tl.max(tl.where(inside, tl.maximum(value, 0.0), 0.0), 0)
        scale = tl.div_rn(high - low, quant_max - quant_min)
        scale = tl.where(scale >= 1.1754943508222875e-38, scale, 1.0)  # the smallest normal float32
        zero_point = steps_of(-low, scale, quant_min, quant_min, quant_max)
        tl.store(scales + row, scale)
        tl.store(zero_points + row, zero_point.to(tl.int32))
    if CODES:
        tl.store(place, steps_of(value, scale, zero_point, quant_min, quant_max).to(tl.int8), mask=inside)
    else:
        tl.store(place, value, mask=inside)


@triton.jit
def rows(
    x, weight, bias, out, scales, zero_points, x_stride, epsilon, scale, zero_point, quant_min, quant_max,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, NORM: tl.constexpr, GELU: tl.constexpr, CODES: tl.constexpr,
    TOKEN: tl.constexpr,
):  # fmt: skip
    """One row: normed, through GELU, quantized; whichever of these is asked for."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    value = tl.load(x + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    if NORM:
        mean = tl.sum(value, 0) / WIDTH
        centred = tl.where(inside, value - mean, 0.0)
        deviation = tl.sqrt_rn(tl.sum(centred * centred, 0) / WIDTH + epsilon)
        value = centred * tl.div_rn(1.0, deviation) * tl.load(weight + columns, mask=inside, other=0.0)
        value += tl.load(bias + columns, mask=inside, other=0.0)
    if GELU:
        value = gelu_of(value)
    store(
        value, out, scales, zero_points, row, columns, inside, scale, zero_point, quant_min, quant_max, WIDTH, CODES,
        TOKEN,
    )  # fmt: skip


@triton.jit(do_not_specialize=["length"])
def gated(
    context, gate, out, scales, zero_points, batch_stride, head_stride, row_stride, gate_stride, length, factor, scale,
    zero_point, quant_min, quant_max,
    DIM: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, SHARED: tl.constexpr, CODES: tl.constexpr,
    TOKEN: tl.constexpr,
):  # fmt: skip
    """One position's heads side by side, each times its gate; SHARED: columns that share a gate, 0 without one."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    start = context + (row // length) * batch_stride + (row % length) * row_stride
    value = tl.load(start + (columns // DIM) * head_stride + columns % DIM, mask=inside, other=0.0).to(tl.float32)
    if SHARED:
        logit = tl.load(gate + row * gate_stride + columns // SHARED, mask=inside, other=0.0).to(tl.float32)
        value *= tl.sigmoid(logit) * factor
    store(
        value, out, scales, zero_points, row, columns, inside, scale, zero_point, quant_min, quant_max, WIDTH, CODES,
        TOKEN,
    )  # fmt: skip


@triton.jit(do_not_specialize=["past", "length"])
def append(
    new_keys, new_values, keys, values, key_scales, value_scales, stride, capacity, past, length,
    HEADS: tl.constexpr, DIM: tl.constexpr, SPAN: tl.constexpr, SCALED: tl.constexpr, ON_DEVICE: tl.constexpr,
):  # fmt: skip
    """One head of one new row into its utterance's cache; ON_DEVICE: `past` is in memory."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    position = row % length + (tl.load(past) if ON_DEVICE else past)
    dims = tl.arange(0, SPAN)
    real = dims < DIM
    place = head * DIM + dims
    key = tl.load(new_keys + row * stride + place, mask=real, other=0.0)
    value = tl.load(new_values + row * stride + place, mask=real, other=0.0)
    if SCALED:
        scale = tl.load(key_scales + place, mask=real, other=1.0)
        key = steps_of(key.to(tl.float32), scale, 0.0, -127.0, 127.0)
        scale = tl.load(value_scales + place, mask=real, other=1.0)
        value = steps_of(value.to(tl.float32), scale, 0.0, -127.0, 127.0)
    first = (row // length * HEADS + head) * DIM * capacity
    tl.store(keys + first + dims * capacity + position, key.to(keys.dtype.element_ty), mask=real)
    tl.store(values + first + position * DIM + dims, value.to(values.dtype.element_ty), mask=real)


@triton.jit(do_not_specialize=["past", "causal", "length"])
def attend(
    query, keys, values, gate, out, key_scales, value_scales, query_stride, gate_stride, capacity, past, causal, length,
    scaling, factor, scale, zero_point, quant_min, quant_max,
    HEADS: tl.constexpr, DIM: tl.constexpr, SPAN: tl.constexpr, POSITIONS: tl.constexpr, SCALED: tl.constexpr,
    SHARED: tl.constexpr, CODES: tl.constexpr, ON_DEVICE: tl.constexpr,
):  # fmt: skip
    """One head of one query over its utterance's cache, position by position with a running softmax.

    ON_DEVICE: `past` is in memory, without the queries' own entries.
    """
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    batch, own = row // length, row % length
    filled = tl.load(past) + causal if ON_DEVICE else past
    seen = tl.where(causal > 0, filled - causal + own + 1, filled)
    dims = tl.arange(0, SPAN)
    real = dims < DIM
    place = head * DIM + dims
    asked = tl.load(query + row * query_stride + place, mask=real, other=0.0).to(tl.float32) * scaling
    if SCALED:
        asked *= tl.load(key_scales + place, mask=real, other=0.0)
    keys += (batch * HEADS + head) * DIM * capacity
    values += (batch * HEADS + head) * DIM * capacity
    peak, total = -float("inf"), 0.0
    context = tl.zeros((SPAN,), dtype=tl.float32)
    for first in range(0, seen, POSITIONS):
        positions = first + tl.arange(0, POSITIONS)
        there = positions < seen
        key = tl.load(
            keys + dims[:, None] * capacity + positions[None, :], mask=real[:, None] & there[None, :], other=0.0
        )
        scores = tl.where(there, tl.sum(asked[:, None] * key.to(tl.float32), 0), -float("inf"))
        higher = tl.maximum(peak, tl.max(scores, 0))
        shares, kept = tl.exp(scores - higher), tl.exp(peak - higher)
        value = tl.load(
            values + positions[:, None] * DIM + dims[None, :], mask=there[:, None] & real[None, :], other=0.0
        )
        context = context * kept + tl.sum(shares[:, None] * value.to(tl.float32), 0)
        total, peak = total * kept + tl.sum(shares, 0), higher
    context = tl.div_rn(context, tl.zeros_like(context) + total)
    if SCALED:
        context *= tl.load(value_scales + place, mask=real, other=0.0)
    if SHARED:
        logit = tl.load(gate + row * gate_stride + place // SHARED, mask=real, other=0.0).to(tl.float32)
        context *= tl.sigmoid(logit) * factor
    if CODES:
        context = steps_of(context, scale, zero_point, quant_min, quant_max).to(tl.int8)
    tl.store(out + row * HEADS * DIM + place, context, mask=real)


@triton.jit(do_not_specialize=["rows"])
def split_codes(
    x, channels, out, x_stride, rows, scale, zero_point, quant_min, quant_max,
    COUNT: tl.constexpr, BLOCK: tl.constexpr, SOME: tl.constexpr, BITS: tl.constexpr,
):  # fmt: skip
    """One row's codes of 16 bits in two of eight, signed; SOME: of the channels given."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < COUNT
    source = tl.load(channels + columns, mask=inside, other=0) if SOME else columns
    value = tl.load(x + row * x_stride + source, mask=inside, other=0.0)
    codes = steps_of(value, scale, zero_point, quant_min, quant_max).to(tl.int32)
    tl.store(out + row * COUNT + columns, ((codes >> BITS) - 128).to(tl.int8), mask=inside)
    tl.store(out + (row + rows) * COUNT + columns, ((codes & ((1 << BITS) - 1)) - 128).to(tl.int8), mask=inside)
