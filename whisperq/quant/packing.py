"""Codes of b bits in a stream of bytes: three bits cost three bits.

    bit i * b + k of the stream is bit k of code i;  bit p of the stream is bit p mod 8 of byte p div 8

i counts the codes of the flattened tensor; bits count from the least significant one (numpy.packbits with
bitorder "little"). n codes take ceil(n * b / 8) bytes, the last filled up with zeros. Eight codes are b bytes
exactly: both are read as one whole number of 8 * b bits, at most 64.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def packed_size(count: int, bits: int) -> int:
    """Bytes of `count` codes."""
    return -(-count * bits // 8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """codes (...), whole numbers 0 to 2^bits - 1 of any dtype -> uint8 (bytes)."""
    _check_bits(bits)
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < 2**bits:
        raise ValueError(f"codes of {bits} bits lie between 0 and {2**bits - 1}")
    return _regrouped(codes.flatten(), bits, 8)[: packed_size(codes.numel(), bits)]


def unpack(packed: Tensor, bits: int, shape: torch.Size | list[int]) -> Tensor:
    """uint8 (bytes) -> codes of this shape, uint8. Raises ValueError where the number of bytes does not fit."""
    _check_bits(bits)
    count = math.prod(shape)
    if packed.shape != (packed_size(count, bits),) or packed.dtype != torch.uint8:
        raise ValueError(f"{packed.numel()} bytes do not hold {count} codes of {bits} bits")
    return _regrouped(packed, 8, bits)[:count].reshape(shape)


def _regrouped(values: Tensor, width: int, new_width: int) -> Tensor:
    """A stream (n) of values of `width` bits, filled up with zeros, as values of `new_width` bits, uint8.

    One of the widths is 8: words of width * new_width bits hold whole numbers of both.
    """
    filled = F.pad(values, (0, -len(values) % new_width))
    parts = filled.view(-1, new_width)
    words = torch.zeros(len(parts), dtype=torch.int64)
    for i in range(new_width):
        words |= parts[:, i].to(torch.int64) << (i * width)
    mask = 2**new_width - 1
    new = [((words >> (i * new_width)) & mask).to(torch.uint8) for i in range(width)]
    return torch.stack(new, dim=1).flatten()


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= 8:
        raise ValueError(f"a code has one to eight bits, not {bits}")
