"""Which products of an exported model an engine really multiplies in integers."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from whisperq import artifact
from whisperq.runtime.interface import Products
from whisperq.runtime.onnx.engines import Engine, Executed

OWN_NAME = re.compile(r"/(\d+|bias)$")  # a product's value is called by its address; a second one is numbered


def executed_products(
    engine: Engine, paths: Mapping[str, Path], output: str, counts: Callable[[str, str], bool] = lambda *_: True
) -> Products:
    """Read from the graphs (name -> path) as the engine executes them.

    output: the address of the one product that is an output of the layout, `logits`. counts: whether an address is
    read from the graph of a name. A product that the export meant to be integers but that the engine runs in float,
    or shows nowhere, is float here.
    """
    folder = next(iter(paths.values())).parents[1]
    exported = artifact.load(folder, "onnx", verify=False).results
    why = dict.fromkeys(exported["integer_products"], "") | exported["float_products"]
    found: dict[str, list[Executed]] = {}
    for graph, path in paths.items():
        for product in engine.executed(path):
            for address in {output if v == "logits" else OWN_NAME.sub("", v) for v in product.values} & why.keys():
                if counts(graph, address):
                    found.setdefault(address, []).append(product)
    integer = tuple(a for a in why if not why[a] and a in found and all(p.integer for p in found[a]))
    floating = {
        a: reason or (f"run in float as {found[a][0].operator}" if a in found else "not found in the executed graph")
        for a, reason in why.items()
        if a not in integer
    }
    return Products(integer, floating)
