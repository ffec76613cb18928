"""Which kernel multiplies: the quickest of this machine that is exact.

With VNNI oneDNN multiplies many rows and the compiled kernels few. Without it oneDNN's sums of more than seven bits
saturate: the compiled kernels multiply all rows of those. Where inputs are on one grid, they multiply all rows of a
vocabulary too, which is too large to be kept twice.
"""

from whisperq.runtime.int8.dynamic import DynamicMatmul, TokenGrid, integer_sums
from whisperq.runtime.int8.grids import Grid
from whisperq.runtime.int8.kernels import Kernels
from whisperq.runtime.int8.matmuls import IntegerWeight, Matmul, integer_matmul
from whisperq.runtime.int8.native_kernels import NativeKernels
from whisperq.runtime.int8.native_matmuls import NativeMatmul
from whisperq.runtime.int8.native_tokens import NativeDynamicMatmul, TokenKernels

EXACT = 127  # greatest code with which sums of any kernel are exact
VOCABULARY = 2**14  # outputs, beyond which a weight is one of all tokens


def integer_product(
    weight: IntegerWeight, grid: Grid | TokenGrid, kernels: Kernels, device: str, few_rows: bool, align: bool
) -> Matmul:
    """few_rows: whether it has few, as in decoding; align: as `OneDnnMatmul` understands it."""
    native = kernels if isinstance(kernels, NativeKernels) else None
    alone = native is not None and native.multiplies_all and grid.quant_max > EXACT
    if isinstance(grid, TokenGrid):
        sums = None if alone else integer_sums(weight.codes, grid.bits, device, align)
        if isinstance(kernels, TokenKernels):
            return NativeDynamicMatmul(weight, grid, sums, kernels, few_rows)
        return DynamicMatmul(weight, grid, sums)
    if native and (alone or (native.multiplies_all and len(weight.codes) > VOCABULARY)):
        return NativeMatmul(weight, grid, native, None)
    product = integer_matmul(weight, grid, device, align)
    return NativeMatmul(weight, grid, native, product) if few_rows and native and native.most_rows else product
