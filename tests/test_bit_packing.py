"""Packed codes against numpy's packbits, plain Python, and the number of bytes that b bits each are."""

import numpy as np
import pytest
import torch

from whisperq.quant.packing import pack, packed_size, unpack

BITS = range(1, 9)
SHAPES = [(1,), (7,), (8,), (9,), (3, 5), (64, 33), (2, 3, 7), (1000,), (0,)]


def codes_of(bits: int, shape: tuple[int, ...]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(bits)
    return torch.randint(0, 2**bits, shape, generator=generator, dtype=torch.int16)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("bits", BITS)
def test_bytes_are_numpys(bits, shape):
    codes = codes_of(bits, shape)
    stream = (codes.numpy().reshape(-1, 1) >> np.arange(bits)) & 1
    assert np.array_equal(pack(codes, bits).numpy(), np.packbits(stream.astype(np.uint8), bitorder="little"))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("bits", BITS)
def test_nothing_is_lost_and_nothing_wasted(bits, shape):
    codes = codes_of(bits, shape)
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8 and packed.shape == (-(-codes.numel() * bits // 8),)
    assert packed_size(codes.numel(), bits) == len(packed)
    again = unpack(packed, bits, list(shape))
    assert again.dtype == torch.uint8 and again.shape == codes.shape and torch.equal(again.to(torch.int16), codes)


def test_three_bits_in_plain_python():
    codes = [5, 1, 7, 0, 3, 2, 6, 4, 1]
    number = sum(code << (3 * i) for i, code in enumerate(codes))
    assert bytes(pack(torch.tensor(codes), 3).tolist()) == number.to_bytes(4, "little")


@pytest.mark.parametrize("codes, bits", [([0, 8], 3), ([-1], 4), ([256], 8), ([0], 0), ([0], 9)])
def test_codes_that_have_no_such_bits_are_refused(codes, bits):
    with pytest.raises(ValueError, match="bits"):
        pack(torch.tensor(codes), bits)


@pytest.mark.parametrize("shape", [(9,), (11, 1), (2, 6)])
def test_bytes_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="do not hold"):
        unpack(pack(torch.zeros(8 * 3, dtype=torch.uint8), 4), 4, shape)
