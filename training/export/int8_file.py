"""The int8 variant of a served graph: its large products over candidates, in 8 bits. Knows nothing of what it scores.

A weight has a scale a column, symmetric. An activation has a scale a row, found when it runs: a candidate's row is
rounded by its own largest value, so that its score depends on no other candidate, nothing is clipped and nothing must
be calibrated. All else (embeddings, attention, small products, the last layer) stays in fp32.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper

from service.contract.artefact import scorer_file
from service.contract.served_inputs import ITEM_SHARED

WEIGHTS_MIN: Final = 8192
"""A product of a smaller weight gains nothing."""
RUNTIME_DOMAIN: Final = "com.microsoft"
_TINY: Final = 1e-30  # the scale of a row of zeros


def write_int8(folder: Path, domains: Sequence[str]) -> int:
    """Write the int8 variant beside the graph of each domain; returns how many products of one are in 8 bits.

    Where there is none, nothing is written.
    """
    counts = set()
    for domain in domains:
        graph, products_count = quantized(folder / scorer_file(domain))
        counts.add(products_count)
        if products_count:
            onnx.save(graph, str(folder / scorer_file(domain, "int8")))
    return min(counts)


def quantized(path: Path) -> tuple[onnx.ModelProto, int]:
    """Return a graph of one domain with its large products in 8 bits, and how many those are."""
    over_candidates = set(_over_candidates(onnx.load(str(path), load_external_data=False).graph))
    model = _folded(path)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    relus = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Relu"}
    nodes: list[NodeProto] = []
    rounded: dict[str, _Rounded] = {}
    count = 0
    for node in model.graph.node:
        weight = _weight_of(node, weights, path.parent) if node.input[0] in over_candidates else None
        if weight is None:
            nodes.append(node)
            continue
        rows = node.input[0]
        if rows not in rounded:
            rounded[rows] = _Rounded(relus.get(rows, rows), model.graph, positive=rows in relus)
            nodes += rounded[rows].nodes
        nodes += rounded[rows].product(node, weight)
        count += 1
    _replace_nodes(model.graph, nodes)
    if all(opset.domain != RUNTIME_DOMAIN for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(RUNTIME_DOMAIN, 1))
    return model, count


def _replace_nodes(graph: onnx.GraphProto, nodes: list[NodeProto]) -> None:
    """Let a graph have these nodes and the weights that they read, without ReLUs that nothing reads any more."""
    read = {name for node in nodes for name in node.input}
    nodes = [node for node in nodes if node.op_type != "Relu" or node.output[0] in read]
    weights = [tensor for tensor in graph.initializer if tensor.name in read]
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
    node: NodeProto, weights: dict[str, TensorProto], folder: Path
) -> npt.NDArray[np.float32] | None:
    """Return the weight (K, H) that a node multiplies rows (N, K) with, None where it is none or a small one."""
    if node.op_type not in ("Gemm", "MatMul") or node.input[1] not in weights:
        return None
    tensor = weights[node.input[1]]
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    plain = not given.get("transA") and given.get("alpha", 1.0) == given.get("beta", 1.0) == 1.0
    if len(tensor.dims) != 2 or np.prod(tensor.dims) < WEIGHTS_MIN or not plain:
        return None
    weight: npt.NDArray[np.float32] = numpy_helper.to_array(tensor, base_dir=str(folder))
    return weight.T if given.get("transB") else weight


class _Rounded:
    """The rows (N, K) of a tensor in 8 bits, of which a graph may make several products."""

    def __init__(self, rows: str, graph: onnx.GraphProto, *, positive: bool) -> None:
        """Add what it needs to a graph; `nodes` are to stand before the products. With `positive`, what is below zero
        becomes zero, as ReLU has it."""
        self._graph, self._rows = graph, rows
        self._scale = self._name("scale")  # (N, 1)
        self._bytes = self._name("bytes")  # (N, K)
        self._one = self._constant("one", 1.0, np.float32)
        self._zero = self._constant("zero", 0 if positive else 128, np.uint8)
        axis, tiny = self._constant("axis", [1], np.int64), self._constant("tiny", _TINY, np.float32)
        step = self._constant("step", 1 / (255 if positive else 127), np.float32)
        scales = self._name("scales")  # (N,)
        largest, lowest, shift = [self._name("largest")], [], []
        self.nodes = [helper.make_node("ReduceMax", [rows, axis], largest)]
        if not positive:
            lowest, shift = [self._name("lowest")], [self._name("shift")]
            self.nodes += [
                helper.make_node("ReduceMin", [rows, axis], [self._name("smallest")]),
                helper.make_node("Neg", [self._name("smallest")], lowest),
            ]
        self.nodes += [
            helper.make_node("Max", [*largest, *lowest, tiny], [self._name("range")]),
            helper.make_node("Mul", [self._name("range"), step], [self._scale]),
            helper.make_node("Squeeze", [self._scale, axis], [scales]),
        ]
        if not positive:
            middle = numpy_helper.from_array(np.array([128], np.uint8))
            self.nodes += [
                helper.make_node("Shape", [scales], [self._name("count")]),
                helper.make_node("ConstantOfShape", [self._name("count")], shift, value=middle),
            ]
        self.nodes.append(helper.make_node("QuantizeLinear", [rows, scales, *shift], [self._bytes], axis=0))

    def product(self, node: NodeProto, weight: npt.NDArray[np.float32]) -> list[NodeProto]:
        """Return the nodes that take the place of one, a product with a weight (K, H) and what it adds, if anything."""
        out = node.output[0]
        scale = np.maximum(np.abs(weight).max(axis=0), _TINY) / 127
        held = np.rint(weight / scale).astype(np.int8)
        read = [
            self._bytes,
            self._constant("weight", held, np.int8, of=out),
            self._one,
            self._constant("weight_scale", scale, np.float32, of=out),
            self._zero,
        ]
        added = node.input[2] if len(node.input) > 2 else ""
        product = self._name("product", out) if added else out
        nodes = [
            helper.make_node("MatMulIntegerToFloat", read, [self._name("sum", out)], domain=RUNTIME_DOMAIN),
            helper.make_node("Mul", [self._name("sum", out), self._scale], [product]),
        ]
        return nodes + ([helper.make_node("Add", [product, added], [out])] if added else [])

    def _name(self, what: str, of: str = "") -> str:
        return f"{of or self._rows}/int8/{what}"

    def _constant(self, what: str, value: object, dtype: type[np.generic], of: str = "") -> str:
        name = self._name(what, of)
        self._graph.initializer.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name
