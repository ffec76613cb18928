"""Quantized models whose tensors are not what config.json asks for, under manifests that are consistent: a kernel that
believed them would read or write memory that is not the model's.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.cpu import needs_bf16
from support.damage import refusal, reseal
from support.kernel_inputs import native, random
from support.quantizing import saved
from support.tiny import gated_model

from whisperq.errors import InputError
from whisperq.ptq.checkpoint import load_quantized
from whisperq.quant.grid import range_qparams
from whisperq.runtime.int8.grids import Grid
from whisperq.runtime.int8.kernels import Cache, GateLogits, Heads, Norm
from whisperq.runtime.int8.matmuls import IntegerWeight, TorchMatmul
from whisperq.runtime.int8.native_matmuls import NativeMatmul
from whisperq.runtime.int8.whisper import Int8Runtime

FC2, Q = "model.decoder.layers.0.fc2", "model.encoder.layers.1.self_attn.q_proj"
NORM, TABLE = "model.decoder.layer_norm", "proj_out"
Tensors = dict[str, torch.Tensor]
WEIGHTS, GRIDS = "quantized.safetensors", "qparams.json"


def doubled(t: Tensors) -> None:
    """Consistent in itself: rows, scales and biases."""
    for name in (f"{FC2}.weight", f"{FC2}.weight.scale", f"{FC2}.bias"):
        t[name] = torch.cat([t[name], t[name]])


def put(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], None]:
    return lambda t: t.__setitem__(name, change(t[name]).contiguous())


def first(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(x: torch.Tensor) -> torch.Tensor:
        x.view(-1)[0] = value
        return x

    return change


TENSORS = {
    "twice the rows": (doubled, FC2),
    "codes of twice the rows": (put(f"{FC2}.weight", lambda x: x.repeat(2, 1)), f"{FC2}.weight"),
    "codes of half the columns": (put(f"{FC2}.weight", lambda x: x[:, ::2]), f"{FC2}.weight"),
    "codes transposed": (put(f"{FC2}.weight", lambda x: x.T), f"{FC2}.weight"),
    "codes in another type": (put(f"{FC2}.weight", lambda x: x.view(torch.uint8)), f"{FC2}.weight"),
    "codes in floats": (put(f"{FC2}.weight", lambda x: x.float()), f"{FC2}.weight"),
    "a code below the grid": (put(f"{FC2}.weight", first(-128)), f"{FC2}.weight"),
    "scales in float64": (put(f"{Q}.weight.scale", lambda x: x.double()), f"{Q}.weight.scale"),
    "scales in float16": (put(f"{TABLE}.weight.scale", lambda x: x.half()), f"{TABLE}.weight.scale"),
    "scales of another shape": (put(f"{Q}.weight.scale", lambda x: x.flatten()), f"{Q}.weight.scale"),
    "one scale": (put(f"{Q}.weight.scale", lambda x: x[:1]), f"{Q}.weight.scale"),
    "no scales": (lambda t: t.pop(f"{Q}.weight.scale"), f"{Q}.weight.scale"),
    "a scale of zero": (put(f"{Q}.weight.scale", first(0.0)), f"{Q}.weight.scale"),
    "a scale below zero": (put(f"{Q}.weight.scale", first(-1.0)), f"{Q}.weight.scale"),
    "a scale of NaN": (put(f"{Q}.weight.scale", first(float("nan"))), f"{Q}.weight.scale"),
    "an infinite scale": (put(f"{Q}.weight.scale", first(float("inf"))), f"{Q}.weight.scale"),
    "a denormal scale": (put(f"{Q}.weight.scale", first(1e-42)), f"{Q}.weight.scale"),
    "an empty norm": (put(f"{NORM}.weight", lambda x: x[:0]), f"{NORM}.weight"),
    "empty norms": (lambda t: [put(f"{NORM}.{p}", lambda x: x[:0])(t) for p in ("weight", "bias")], NORM),
    "a short norm": (put(f"{NORM}.bias", lambda x: x[:-1]), f"{NORM}.bias"),
    "a norm of integers": (put(f"{NORM}.bias", lambda x: x.long()), f"{NORM}.bias"),
    "NaN in a norm": (put(f"{NORM}.weight", first(float("nan"))), f"{NORM}.weight"),
    "a short bias": (put(f"{FC2}.bias", lambda x: x[:-1]), f"{FC2}.bias"),
    "infinity in a bias": (put(f"{FC2}.bias", first(float("inf"))), f"{FC2}.bias"),
    "few positions": (put("model.decoder.embed_positions.weight", lambda x: x[:2]), "model.decoder.embed_positions"),
    "a tensor too many": (lambda t: t.update(odd=torch.ones(3)), "odd"),
}


def hostile(folder: Path, change: Callable[[Tensors], object]) -> Path:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


LOADERS = {"emulated": lambda f: load_quantized(f, torch.float32, "cpu"), "int8": Int8Runtime.load}


@pytest.fixture(scope="module")
def healthy(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("healthy")
    saved(gated_model(), folder, "gemm")
    return folder


@pytest.fixture
def copied(healthy, tmp_path) -> Path:
    for file in healthy.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("runtime", LOADERS)
@pytest.mark.parametrize("change, name", TENSORS.values(), ids=TENSORS)
def test_tensors_that_do_not_fit_are_refused_by_name(change, name, runtime, copied):
    with pytest.raises(InputError) as error:
        LOADERS[runtime](hostile(copied, change))
    said = str(error.value)
    assert name in said and (WEIGHTS in said or "do not fit its config.json" in said)


@pytest.mark.parametrize("runtime", LOADERS)
def test_the_healthy_one_is_taken(healthy, runtime):
    assert LOADERS[runtime](healthy)


FC1_INPUT = "dec.0.fc2:input"
ENTRIES = {
    "NaN as an end": ("activations", FC1_INPUT, {"range": [float("nan"), 1.0]}),
    "an end that overflows": ("activations", FC1_INPUT, {"range": [0.0, 1e999]}),
    "ends the wrong way round": ("activations", FC1_INPUT, {"range": [2.0, 1.0]}),
    "three ends": ("activations", FC1_INPUT, {"range": [0.0, 1.0, 2.0]}),
    "ends as texts": ("activations", FC1_INPUT, {"range": ["0", "1"]}),
    "no range": ("activations", FC1_INPUT, {"range": None}),
    "33 bits": ("activations", FC1_INPUT, {"quant_max": 2**33 - 1}),
    "no whole number of bits": ("activations", FC1_INPUT, {"quant_max": 200}),
    "signed activations": ("activations", FC1_INPUT, {"quant_min": -127}),
    "channels beyond the last": (
        "activations", FC1_INPUT,
        {"a16": {"quant_min": 0, "quant_max": 65535, "range": [-1.0, 1.0], "channels": [0, 48]}},
    ),
    "a negative channel": (
        "activations", FC1_INPUT,
        {"a16": {"quant_min": 0, "quant_max": 65535, "range": [-1.0, 1.0], "channels": [-1]}},
    ),
    "another site": ("activations", "dec.9.fc1", {"quant_min": 0, "quant_max": 255, "granularity": "per-tensor"}),
    "a convolution by token": ("activations", "enc.conv1:input", {"granularity": "per-token"}),
    "groups without their number": ("weights", f"{FC2}.weight", {"granularity": "per-group"}),
    "a group of zero": ("weights", f"{FC2}.weight", {"granularity": "per-group", "group": 0}),
    "per tensor": ("weights", f"{FC2}.weight", {"granularity": "per-tensor"}),
    "uneven ends": ("weights", f"{FC2}.weight", {"quant_min": -128}),
    "ends as a text": ("weights", f"{FC2}.weight", {"quant_min": "-127"}),
    "packed without a shape": ("weights", f"{FC2}.weight", {"quant_min": -7, "quant_max": 7, "bits": 4}),
    "a norm as a weight": ("weights", f"{NORM}.weight", {"quant_min": -127, "quant_max": 127}),
}  # fmt: skip


@pytest.mark.parametrize("runtime", LOADERS)
@pytest.mark.parametrize("part, name, change", ENTRIES.values(), ids=ENTRIES)
def test_grids_that_no_model_has_are_refused_by_name(part, name, change, runtime, copied):
    content = json.loads((copied / GRIDS).read_text())
    content[part][name] = content[part].get(name, {"granularity": "per-channel", "range": [0.0, 1.0]}) | change
    (copied / GRIDS).write_text(json.dumps(content))
    with pytest.raises(InputError) as error:
        LOADERS[runtime](copied)
    nowhere = ("NaN", "Infinity")  # no JSON at all, so that no field can be named
    assert GRIDS in str(error.value) or WEIGHTS in str(error.value)
    assert name in str(error.value) or any(word in str(error.value) for word in nowhere)


@pytest.mark.parametrize("runtime", LOADERS)
def test_one_sentence_and_exit_code_3(runtime, copied_run, digits, invoke):
    model = copied_run / "quantized/gemm-w8a8"
    hostile(model, put("model.decoder.layers.0.fc2.bias", lambda x: x[:3]))
    reseal(model)
    recording = json.loads((digits / "test.jsonl").read_text().splitlines()[0])["audio_filepath"]
    result = invoke("transcribe", recording, "--model", model, "--runtime", runtime)
    assert result.exit_code == 3, result.output
    assert f"{WEIGHTS} is damaged: model.decoder.layers.0.fc2.bias has the shape [3]" in refusal(result)


def weight(outputs: int = 6, inputs: int = 8, **other: torch.Tensor) -> IntegerWeight:
    whole = torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8)
    return IntegerWeight(**({"codes": whole, "scale": torch.ones(outputs), "bias": torch.zeros(outputs)} | other))


BAD_WEIGHTS = {
    "float64": {"scale": torch.ones(6, dtype=torch.float64)},
    "short": {"bias": torch.zeros(5)},
    "long": {"scale": torch.ones(12)},
    "codes": {"codes": torch.zeros(6, 8, dtype=torch.uint8)},
}


@pytest.mark.parametrize("bad", BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_no_product_is_made_of_what_does_not_fit_together(bad):
    with pytest.raises(ValueError, match="float32"):
        weight(**bad)


def g() -> Grid:
    return Grid(range_qparams(-1.0, 1.0, 8))


def _append(kernels, rows: int, past: int) -> None:
    heads = Heads(2, 4)
    cache = Cache.empty(1, heads, 5, torch.empty(0))
    cache.past = past
    kernels.append(random(rows, 8), random(rows, 8), cache)


CALLS = {
    "rows in another type": lambda k: k.layer_norm(random(2, 8).double(), Norm(torch.ones(8), torch.ones(8)), None),
    "rows apart": lambda k: k.layer_norm(random(2, 16)[:, ::2], Norm(torch.ones(8), torch.ones(8)), None),
    "a short norm": lambda k: k.layer_norm(random(2, 8), Norm(torch.ones(7), torch.ones(8)), None),
    "half precision to quantize": lambda k: k.quantize(random(2, 8).half(), g()),
    "a short divisor": lambda k: k.quantize(random(2, 8), Grid(g().qparams, torch.ones(7))),
    "narrow attention": lambda k: k.attention(random(4, 20).bfloat16(), 1, Heads(2, 4), None, None),
    "a gate of few rows": lambda k: k.attention(
        random(4, 24).bfloat16(), 1, Heads(2, 4), GateLogits(random(3, 2), 2.0), None
    ),
    "a full cache": lambda k: _append(k, 1, 5),
    "a cache too small": lambda k: _append(k, 6, 0),
    "a cache of other heads": lambda k: k.attend(
        random(1, 8), Cache.empty(1, Heads(1, 4), 5, torch.empty(0)), 0, Heads(2, 4), None, None
    ),
    "a cache of another type": lambda k: k.attend(
        random(1, 8), Cache.empty(1, Heads(2, 4), 5, torch.empty(0).bfloat16()), 0, Heads(2, 4), None, None
    ),
    "more than is cached": lambda k: k.attend(
        random(1, 8), Cache(torch.empty(1, 2, 4, 5), torch.empty(1, 2, 5, 4), past=6), 0, Heads(2, 4), None, None
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_kernel_gets_no_address_of_what_it_would_not_stay_inside_of(name):
    if name in ("narrow attention", "a gate of few rows"):
        needs_bf16(native())
    with pytest.raises(ValueError):
        CALLS[name](native())


PRODUCTS = {
    "few columns": lambda p: p(torch.zeros(1, 7, dtype=torch.uint8)),
    "floats": lambda p: p(torch.zeros(1, 8)),
    "a short sum": lambda p: p.add(torch.zeros(1, 8, dtype=torch.uint8), torch.zeros(1, 5)),
    "a sum in halves": lambda p: p.add(torch.zeros(1, 8, dtype=torch.uint8), torch.zeros(1, 6).half()),
}


@pytest.mark.parametrize("call", PRODUCTS.values(), ids=PRODUCTS)
def test_a_product_writes_where_there_is_room(call):
    kernels = native()
    if not kernels.most_rows:
        pytest.skip("the compiled kernels multiply nothing on this CPU")
    product = NativeMatmul(weight(), g(), kernels, TorchMatmul(weight(), g()))
    with pytest.raises(ValueError):
        call(product)
