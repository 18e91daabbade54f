"""The int8 variant of a served graph: its large products over candidates, in 8 bits. Knows nothing of what it scores.

A weight has a scale a column, symmetric. An activation has a scale a row, found when it runs: a candidate's row is
rounded by its own largest value, so that its score depends on no other candidate, nothing is clipped and nothing must
be calibrated. All else (embeddings, attention, small products, the last layer) stays in fp32.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper

from service.contract.artefact import scorer_file
from service.contract.history import F32
from service.contract.served_inputs import ITEM_SHARED

WEIGHTS_MIN: Final = 8192
COLUMNS_MIN: Final = 64
"""A product with a smaller weight, or of fewer columns, gains less than rounding its rows costs."""
RUNTIME_DOMAIN: Final = "com.microsoft"
_TINY: Final = 1e-30  # instead of the largest value of what is all zero


def write_int8(folder: Path, domains: Sequence[str]) -> int:
    """Write the int8 variant beside the graph of each domain; returns how many products of one are in 8 bits.

    Where there is none, nothing is written.
    """
    made = {domain: quantized(folder / scorer_file(domain)) for domain in domains}
    products_count = min(count for _, count in made.values())
    if products_count:
        for domain, (graph, _) in made.items():
            onnx.save(graph, str(folder / scorer_file(domain, "int8")))
    return products_count


def quantized(path: Path) -> tuple[onnx.ModelProto, int]:
    """Return a graph of one domain with its large products in 8 bits, and how many those are."""
    over_candidates = set(_over_candidates(onnx.load(str(path), load_external_data=False).graph))
    model = _folded(path)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    relus = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Relu"}
    nodes: list[NodeProto] = []
    replaced: set[str] = set()  # the weights, and what ReLU gave
    count = 0
    for node in model.graph.node:
        weight = _weight_of(node, over_candidates, weights, path.parent)
        if weight is None:
            nodes.append(node)
            continue
        rows = node.input[0]
        product = _Product(node, model.graph)
        nodes += product.of_positive(relus[rows], weight) if rows in relus else product.of_any(rows, weight)
        replaced.update(node.input[:2])
        count += 1
    _replace_nodes(model.graph, nodes, unread=replaced - {name for node in nodes for name in node.input})
    if all(opset.domain != RUNTIME_DOMAIN for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(RUNTIME_DOMAIN, 1))
    return model, count


def _replace_nodes(graph: onnx.GraphProto, nodes: list[NodeProto], *, unread: set[str]) -> None:
    """Let a graph have these nodes, without the weights and ReLUs whose names nothing reads any more."""
    nodes = [node for node in nodes if node.op_type != "Relu" or node.output[0] not in unread]
    weights = [tensor for tensor in graph.initializer if tensor.name not in unread]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(weights)


def _folded(path: Path) -> onnx.ModelProto:
    """Return a graph as ONNX Runtime has it once what hangs on the domain is folded. Large weights that do not stay
    beside it."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".onnx") as file:
        options.optimized_model_filepath = file.name
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return onnx.load(file.name, load_external_data=False)


def _over_candidates(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield the tensors (N, ·) of which each row is one candidate's."""
    dims = {v.name: v.type.tensor_type.shape.dim for v in (*graph.input, *graph.value_info)}
    candidates = dims[ITEM_SHARED][0].dim_param if ITEM_SHARED in dims else ""
    for name, shape in dims.items():
        if candidates and len(shape) == 2 and shape[0].dim_param == candidates:
            yield name


def _weight_of(
    node: NodeProto, over_candidates: set[str], weights: dict[str, TensorProto], folder: Path
) -> F32 | None:
    """Return the weight (K, H) that a node multiplies candidates' rows (N, K) with, None where it is none or small."""
    if node.op_type not in ("Gemm", "MatMul"):
        return None
    if node.input[0] not in over_candidates or node.input[1] not in weights:
        return None
    tensor = weights[node.input[1]]
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    plain = not given.get("transA") and given.get("alpha", 1.0) == given.get("beta", 1.0) == 1.0
    if len(tensor.dims) != 2 or np.prod(tensor.dims) < WEIGHTS_MIN or not plain:
        return None
    weight: F32 = numpy_helper.to_array(tensor, base_dir=str(folder))
    weight = weight.T if given.get("transB") else weight
    return weight if weight.shape[1] >= COLUMNS_MIN else None


class _Product:
    """The nodes that take the place of one: a product of rows (N, K) with a weight (K, H), and what it adds.

    What it needs beside them it adds to the graph. All names begin with that of its output.
    """

    def __init__(self, node: NodeProto, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._out = node.output[0]
        self._added = node.input[2] if len(node.input) > 2 else ""

    def of_positive(self, rows: str, weight: F32) -> list[NodeProto]:
        """Return the nodes where what is below zero in the rows counts as zero, as ReLU has it."""
        return [
            self._node("ReduceMax", rows, self._axis(), out="largest"),
            *self._scales(self._name("largest"), steps=255),
            self._node("QuantizeLinear", rows, self._name("scales"), out="bytes", axis=0),
            *self._product(weight, zero=0),
        ]

    def of_any(self, rows: str, weight: F32) -> list[NodeProto]:
        """Return the nodes where the rows are of any sign.

        Each column is multiplied with the largest weight that it meets, and that row of weights divided by it. What is
        rounded is then as large as what it contributes: a column of small values and large weights, as normalization
        makes them, is not lost beside one of large values and small weights.
        """
        reach = np.maximum(np.abs(weight).max(axis=1), _TINY)  # (K,)
        middle = numpy_helper.from_array(np.array([128], np.uint8))
        even = self._name("even")
        return [
            self._node("Mul", rows, self._constant("reach", reach, np.float32), out="even"),
            self._node("ReduceMax", even, self._axis(), out="largest"),
            self._node("ReduceMin", even, self._axis(), out="smallest"),
            self._node("Neg", self._name("smallest"), out="lowest"),
            *self._scales(self._name("largest"), self._name("lowest"), steps=127),
            self._node("Shape", self._name("scales"), out="count"),
            self._node("ConstantOfShape", self._name("count"), out="zeros", value=middle),
            self._node(
                "QuantizeLinear", even, self._name("scales"), self._name("zeros"), out="bytes", axis=0
            ),
            *self._product(weight / reach[:, None], zero=128),
        ]

    def _scales(self, *largest: str, steps: int) -> list[NodeProto]:
        """Return the nodes of each row's scale, (N, 1) as `scale` and (N,) as `scales`."""
        tiny, step = self._constant("tiny", _TINY, np.float32), self._constant("step", 1 / steps, np.float32)
        return [
            self._node("Max", *largest, tiny, out="range"),
            self._node("Mul", self._name("range"), step, out="scale"),
            self._node("Squeeze", self._name("scale"), self._axis(), out="scales"),
        ]

    def _product(self, weight: F32, *, zero: int) -> list[NodeProto]:
        scale = np.maximum(np.abs(weight).max(axis=0), _TINY) / 127  # (H,)
        read = (
            self._name("bytes"),
            self._constant("weight", np.rint(weight / scale), np.int8),
            self._constant("one", 1.0, np.float32),
            self._constant("weight_scale", scale, np.float32),
            self._constant("zero", zero, np.uint8),
        )
        product = self._node("Mul", self._name("sum"), self._name("scale"), out="product")
        nodes = [self._node("MatMulIntegerToFloat", *read, out="sum", domain=RUNTIME_DOMAIN), product]
        if self._added:
            return [*nodes, helper.make_node("Add", [self._name("product"), self._added], [self._out])]
        product.output[0] = self._out
        return nodes

    def _axis(self) -> str:
        return self._constant("axis", [1], np.int64)

    def _name(self, what: str) -> str:
        return f"{self._out}/int8/{what}"

    def _node(self, operator: str, *read: str, out: str, **given: Any) -> NodeProto:
        node: NodeProto = helper.make_node(operator, list(read), [self._name(out)], **given)
        return node

    def _constant(self, what: str, value: object, dtype: type[np.generic]) -> str:
        name = self._name(what)
        if all(tensor.name != name for tensor in self._graph.initializer):
            self._graph.initializer.append(numpy_helper.from_array(np.array(value).astype(dtype), name))
        return name
