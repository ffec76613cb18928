"""Compiles each Triton kernel for an A100 and an H100, without either; says what is wrong with the code that comes out.

For each kernel: pointers, and sizes and strides that are multiples of 16, as Triton is told them at runtime, and the
shapes of whisper-large. Run without TRITON_INTERPRET.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from whisperq.runtime.int8 import triton_code as code
from whisperq.runtime.int8 import triton_matmuls as matmuls

ASSEMBLER = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
TARGETS = {80: "sm_80", 90: "sm_90a"}
SHARED = {80: 163 * 1024, 90: 227 * 1024}  # bytes of shared memory that one program may have
POINTERS = {"x_zero_points": "*i32", "zero_points": "*i32", "totals": "*i32", "channels": "*i64"}
POINTERS |= dict.fromkeys(("scales", "biases", "x_scales", "bias", "key_scales", "value_scales"), "*fp32")
POINTERS |= dict.fromkeys(("context", "gate", "query"), "*bf16")
COUNTS = ("rows", "outputs", "inputs", "length", "past", "causal")
STRIDES = (
    "stride",
    "x_stride",
    "out_stride",
    "query_stride",
    "gate_stride",
    "batch_stride",
    "head_stride",
    "row_stride",
    "capacity",
)
Kernel = tuple[str, Any, dict[str, str], dict[str, Any], dict[str, int]]


def kernels() -> Iterator[Kernel]:
    """Name, function, pointers' types, constants and options."""
    forms = {
        "bfloat16": ("*bf16", {}), "added": ("*fp32", {"ADD": True}), "by token": ("*fp32", {"TOKEN": True}),
        "GELU as codes": ("*i8", {"GELU": True, "CODES": True}),
    }  # fmt: skip
    for rows in (1, 32, 1500):
        m, n, k, warps, stages = matmuls.tile_of(rows)
        for form, (out, asked) in forms.items():
            constants = dict.fromkeys(("TOKEN", "ADD", "GELU", "CODES"), False) | asked
            constants |= {"EVEN": True, "M": m, "N": n, "K": k, "GROUP": 8}
            types = {"x": "*i8", "weight": "*i8", "out": out}
            options = {"num_warps": warps, "num_stages": stages}
            yield f"product, {rows} rows, {form}", matmuls.product, types, constants, options
    floats = {"x": "*fp32", "weight": "*fp32", "out": "*i8"}
    for gelu, token in ((False, False), (True, True)):
        asked = {"NORM": True, "GELU": gelu, "CODES": True, "TOKEN": token}
        yield "norm", code.rows, floats, {"WIDTH": 1280, "BLOCK": 2048, **asked}, {"num_warps": 4}
    gated = {"DIM": 64, "WIDTH": 1280, "BLOCK": 2048, "SHARED": 64, "CODES": True, "TOKEN": False}
    yield "gate", code.gated, {"out": "*i8"}, gated, {"num_warps": 4}
    for cache in ("*bf16", "*i8"):
        heads = {"HEADS": 20, "DIM": 64, "SPAN": 64, "POSITIONS": 64, "SCALED": cache == "*i8", "SHARED": 64}
        types = {"keys": cache, "values": cache, "out": "*i8", "new_keys": "*bf16", "new_values": "*bf16"}
        yield (
            f"attention to a cache of {cache}",
            code.attend,
            types,
            {**heads, "CODES": True, "ON_DEVICE": False},
            {"num_warps": 4},
        )
        types["past"] = "*i32"
        yield "a recorded step's", code.attend, types, {**heads, "CODES": True, "ON_DEVICE": True}, {}
        row = {k: v for k, v in heads.items() if k in ("HEADS", "DIM", "SPAN", "SCALED")}
        yield f"a row into a cache of {cache}", code.append, types, {**row, "ON_DEVICE": True}, {}
    for some in (False, True):
        constants = {"COUNT": 5120, "BLOCK": 8192, "SOME": some, "BITS": 8}
        yield "halves", code.split_codes, floats, constants, {"num_warps": 8}


def compiled(kernel: Kernel, target: int) -> Any:
    _, function, types, constants, options = kernel
    signature, attributes = {}, {}
    for place, name in enumerate(function.arg_names):
        kind = {**dict.fromkeys((*COUNTS, *STRIDES), "i32"), **POINTERS, **types}.get(name, "fp32")
        signature[name] = "constexpr" if name in constants else kind
        if kind.startswith("*") or name in (*STRIDES, "outputs", "inputs"):
            attributes[(place,)] = [["tt.divisibility", 16]]
    values = {(function.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(function, signature, constexprs=values, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", target, 32), options=options)


def faults(kernel: Kernel, target: int) -> Iterator[str]:
    made = compiled(kernel, target)
    ptx = made.asm["ptx"]
    if not made.asm["cubin"]:
        yield "no code"
    if made.metadata.shared > SHARED[target]:
        yield f"{made.metadata.shared} bytes of shared memory"
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        told = subprocess.run(
            [ASSEMBLER, f"-arch={TARGETS[target]}", "-v", "-o", "/dev/null", file.name],
            capture_output=True, text=True, check=True,
        ).stderr  # fmt: skip
    if spilt := [n for n in re.findall(r"(\d+) bytes spill", told) if int(n)]:
        yield f"registers spilt: {spilt} bytes"
    if kernel[0].startswith("product"):
        instruction = r"wgmma\.\S*s8\.s8" if target == 90 and kernel[3]["M"] >= 64 else r"mma\.sync\S*s8\.s8"
        if not re.search(instruction, ptx):
            yield f"no {instruction}"
        if re.search(r"ld\.global\S*\.b8 ", ptx):
            yield "codes are read byte by byte"
        if "bfloat16" in kernel[0] and kernel[3]["M"] >= 64 and not re.search(r"st\.global\S*\.v4", ptx):
            yield "outputs are written one by one"


def main() -> None:
    found = [
        f"{kernel[0]} for {TARGETS[target]}: {fault}"
        for target in TARGETS
        for kernel in kernels()
        for fault in faults(kernel, target)
    ]
    if found:
        sys.exit("\n".join(found))
    print("compiled")


if __name__ == "__main__":
    main()
