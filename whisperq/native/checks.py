"""What stands between a tensor and the C++ that gets its address: shape, number format, layout and device."""

import torch
from torch import Tensor


def address(x: Tensor, dtype: torch.dtype, *shape: int) -> int:
    """Address of a contiguous CPU tensor of this shape and number format. Raises ValueError for any other."""
    if x.shape != shape or x.dtype != dtype or not x.is_cpu or not x.is_contiguous():
        raise ValueError(f"a kernel takes {_said(dtype, shape)} in one piece on the CPU, not {_found(x)}")
    return x.data_ptr()


def rows_address(x: Tensor, dtype: torch.dtype, rows: int, width: int) -> int:
    """Address of a CPU matrix of `rows` rows, of which `width` values are used. Raises ValueError for any other tensor.

    Rows may be wider and further apart than what is read or written of them.
    """
    good = x.dim() == 2 and x.shape[0] == rows and x.shape[1] >= width and x.dtype == dtype and x.is_cpu
    if not good or (x.stride(1) != 1 and width > 1) or (x.stride(0) < width and rows > 1):
        raise ValueError(f"a kernel takes rows of {_said(dtype, (rows, width))} or wider on the CPU, not {_found(x)}")
    return x.data_ptr()


def _said(dtype: torch.dtype, shape: tuple[int, ...]) -> str:
    return f"{str(dtype).removeprefix('torch.')} {list(shape)}"


def _found(x: Tensor) -> str:
    return f"{_said(x.dtype, tuple(x.shape))} with strides {list(x.stride())} on {x.device}"
