"""The arithmetic that scoring cannot do without: its matrix products, and nothing else, by ONNX Runtime's fp32 MatMul.

Of the reference model (`products`), the least that its definition asks for, whatever graph is served: the user's side
once; what depends on an item alone from the item tables, so its side of the first layer, its query, key and value; W^o
folded into the first layer. Of any other graph (`products_of`), those that it computes for a request.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper, save_model

from benchmarks.kernels import kernels_of, profiled_options
from benchmarks.reference_model import CONFIG, TASKS, features
from service.contract.features import Side
from service.contract.served_inputs import Feeds
from training.backbones.star import Options as StarOptions
from training.interest.twin_v2 import Options as TwinOptions

F32 = np.ndarray[Any, np.dtype[np.float32]]

OPSET: Final = 20
IR_VERSION: Final = 9
PRODUCTS: Final = ("MatMul", "Gemm", "FusedMatMul", "FusedGemm")
"""Operators that are matrix products, those that ONNX Runtime makes of others included."""


@dataclass(frozen=True)
class Product:
    """`count` products of a (rows, inner) and an (inner, columns) matrix.

    weights: whether the right ones are the model's, and so known before any request.
    """

    name: str
    rows: int
    inner: int
    columns: int
    count: int = 1
    weights: bool = True

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * self.count * self.rows * self.inner * self.columns


def products(*, n: int, c: int) -> list[Product]:
    """Return the products of one request of N candidates and C clusters; none is one row, which the graph ignores."""
    star = StarOptions.model_validate(CONFIG.backbone.options)
    twin = TwinOptions.model_validate(CONFIG.interests[0].options)
    user = CONFIG.embedding_width * sum(f.side in (Side.USER, Side.CONTEXT) for f in features())
    inner, auxiliary, tasks = twin.heads * twin.head_width, star.auxiliary_width, len(TASKS)
    c = max(c, 1)
    deeper = pairwise((*star.hidden, tasks))
    return [
        Product("user's share of the first layer", 1, user, star.hidden[0]),
        Product("user's share of the auxiliary network", 1, user, auxiliary),
        Product("scores", n, twin.head_width, c, count=twin.heads, weights=False),
        Product("mixing", n, c, twin.head_width, count=twin.heads, weights=False),
        Product("attention's share of the first layer", n, inner, star.hidden[0]),
        *(Product(f"layer of {a} by {b}", n, a, b) for a, b in deeper),
        Product("attention's share of the auxiliary network", n, inner, auxiliary),
        Product("last auxiliary layer", n, auxiliary, tasks),
    ]


def products_of(graph: Path, feeds: Feeds) -> list[Product]:
    """Return the products that ONNX Runtime computes when it runs a graph file on these tensors."""
    with tempfile.TemporaryDirectory(prefix="twinstar-products-") as name:
        optimized = Path(name) / "optimized.onnx"
        options = profiled_options(Path(name))
        options.log_severity_level = 3  # that what it writes is for this processor
        options.optimized_model_filepath = str(optimized)
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        session.run(None, {value.name: feeds[value.name] for value in session.get_inputs()})
        kernels = kernels_of(session)
        made = onnx.load(str(optimized), load_external_data=False).graph
    constants = {tensor.name for tensor in made.initializer}
    right_of = {node.name: node.input[1] for node in made.node if node.op_type in PRODUCTS}
    found: list[Product] = []
    for node, event in kernels:
        if node in right_of:
            (left,), (out,) = (
                shape.values()
                for shape in (event["args"]["input_type_shape"][0], event["args"]["output_type_shape"][0])
            )
            *batch, rows, columns = out
            inner = prod(left) // (rows * (prod(batch) if len(left) == len(out) else 1))
            weights = right_of[node] in constants
            found.append(Product(node, rows, inner, columns, count=prod(batch), weights=weights))
    return found


class GemmGraph:
    """Products alone as one ONNX graph, in a session with one thread."""

    def __init__(self, path: Path, asked: list[Product], rng: np.random.Generator) -> None:
        """Write the graph and load it; `path` is its file."""
        self.flops = sum(product.flops for product in asked)
        self._feeds = _write(path, asked, rng)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(self) -> None:
        """Compute all products once."""
        self._session.run(None, self._feeds)


def _write(path: Path, asked: list[Product], rng: np.random.Generator) -> dict[str, F32]:
    """Write a graph whose output is one number of each product, so that none is left out; returns its inputs."""
    feeds: dict[str, F32] = {}
    inputs, constants, nodes, corners = [], [], [], []
    one = numpy_helper.from_array(np.array([1], np.int64), "one")
    constants.append(one)
    for number, product in enumerate(asked):
        left, right, out = f"left_{number}", f"right_{number}", f"out_{number}"
        batch = (product.count,) if product.count > 1 else ()
        matrices = {
            left: rng.standard_normal((*batch, product.rows, product.inner), np.float32),
            right: rng.standard_normal((*batch, product.inner, product.columns), np.float32),
        }
        for name, matrix in matrices.items():
            if name == right and product.weights:
                constants.append(numpy_helper.from_array(matrix, name))
            else:
                inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, matrix.shape))
                feeds[name] = matrix
        axes = len(batch) + 2
        for name, value in (("start", 0), ("end", 1)):
            constants.append(numpy_helper.from_array(np.full(axes, value, np.int64), f"{name}_{number}"))
        nodes += [
            helper.make_node("MatMul", [left, right], [out], name=out),
            helper.make_node("Slice", [out, f"start_{number}", f"end_{number}"], [f"corner_{number}"]),
            helper.make_node("Reshape", [f"corner_{number}", "one"], [f"number_{number}"]),
        ]
        corners.append(f"number_{number}")
    nodes.append(helper.make_node("Concat", corners, ["numbers"], axis=0))
    output = helper.make_tensor_value_info("numbers", TensorProto.FLOAT, [len(asked)])
    graph = helper.make_graph(nodes, "products", inputs, [output], constants)
    opsets = [helper.make_opsetid("", OPSET)]
    save_model(helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION), path)
    return feeds
