"""A small writer of ONNX graphs: operators by call, constants by value, one file that is the same every time."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 20  # the first with Gelu; ONNX Runtime and OpenVINO both fuse what is used of it here
IR_VERSION = 9
PROTOBUF_LIMIT = 2**31 - 2**20  # bytes; a protobuf message may not reach 2 GiB, and nodes need some room
SMALL = 1024  # bytes; constants up to here stay in the graph's file: shapes are inferred from them

Shape = Sequence[int | str]


@dataclass
class Graph:
    """Operators in the order of their calls; every value is known by its name."""

    name: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    _taken: dict[str, int] = field(default_factory=dict)
    _renamed: dict[str, str] = field(default_factory=dict)
    _computed: dict[tuple, str] = field(default_factory=dict)

    def input(self, name: str, dtype: np.dtype | type, shape: Shape) -> str:
        self.inputs.append(_value(name, dtype, shape))
        return name

    def output(self, name: str, value: str, dtype: np.dtype | type, shape: Shape) -> None:
        """Give `value` out under a name of the layout; the operator that computes it keeps its own."""
        self._renamed[value] = name
        self.outputs.append(_value(name, dtype, shape))

    def constant(self, name: str, value: np.ndarray) -> str:
        """A named constant; the same name is the same constant."""
        if name not in self.constants:
            self.constants[name] = np.ascontiguousarray(value) if value.ndim else value
        return name

    def integers(self, *values: int) -> str:
        """A constant vector of int64, as shapes, axes and bounds are given."""
        return self.constant(f"i/{'_'.join(map(str, values))}", np.array(values, np.int64))

    def integer(self, value: int) -> str:
        """A constant of int64 without dimensions."""
        return self.constant(f"n/{value}", np.array(value, np.int64))

    def scalar(self, value: float) -> str:
        return self.constant(f"f/{value!r}", np.array(value, np.float32))

    def op(self, kind: str, *inputs: str, name: str, **attributes: Any) -> str:
        """Append an operator; the name of its output is its own. A name that is taken is numbered."""
        count = self._taken[name] = self._taken.get(name, -1) + 1
        name = f"{name}/{count}" if count else name
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def once(self, kind: str, *inputs: str, name: str, **attributes: Any) -> str:
        """Append an operator, or return the output of an equal one (kind, inputs, attributes) appended before."""
        key = kind, inputs, *attributes.items()
        if key not in self._computed:
            self._computed[key] = self.op(kind, *inputs, name=name, **attributes)
        return self._computed[key]

    def save(self, path: Path, limit: int = PROTOBUF_LIMIT) -> None:
        """Write the graph; constants beyond `limit` bytes in all go to `<file>_data` beside it."""
        size = sum(value.nbytes for value in self.constants.values())
        model = self._model(path.with_name(f"{path.name}_data") if size > limit else None)
        path.write_bytes(model.SerializeToString(deterministic=True))

    def _model(self, data: Path | None) -> onnx.ModelProto:
        tensors, offset = [], 0
        with open(data, "wb") if data else nullcontext() as file:
            for name, value in self.constants.items():
                if data is None or file is None or value.nbytes <= SMALL:
                    tensors.append(numpy_helper.from_array(value, name))
                    continue
                offset = file.seek(math.ceil(offset / 4096) * 4096)  # on pages: engines map the file
                tensors.append(_outside(name, value, data.name, offset))
                offset += file.write(value.tobytes())
        for node in self.nodes:
            node.input[:] = [self._renamed.get(value, value) for value in node.input]
            node.output[:] = [self._renamed.get(value, value) for value in node.output]
        graph = helper.make_graph(self.nodes, self.name, self.inputs, self.outputs, tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="whisperq")
        model.ir_version = IR_VERSION
        return model


def _value(name: str, dtype: np.dtype | type, shape: Shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)


def _outside(name: str, value: np.ndarray, file: str, offset: int) -> onnx.TensorProto:
    """A tensor that says where in `file` its bytes lie."""
    kind = helper.np_dtype_to_tensor_dtype(value.dtype)
    tensor = TensorProto(name=name, data_type=kind, dims=value.shape, data_location=TensorProto.EXTERNAL)
    for key, entry in (("location", file), ("offset", offset), ("length", value.nbytes)):
        tensor.external_data.add(key=key, value=str(entry))
    return tensor
