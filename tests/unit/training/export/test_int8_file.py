"""Products in 8 bits: exact where the numbers are whole, near where they are not, and a row by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.contract.artefact import scorer_file
from service.contract.history import F32
from service.contract.served_inputs import ITEM_SHARED
from training.export.int8_file import COLUMNS_MIN, WEIGHTS_MIN, write_int8
from training.export.onnx_file import write_by_domain
from training.export.served_scorer import DOMAIN

DOMAINS = ("mailer", "display")
COLUMNS = 128
WIDTH = WEIGHTS_MIN // COLUMNS


def write(folder: Path, weight: F32, *, relu: bool = False, rows: str = "candidates") -> int:
    """Write y = x W_domain + b of a weight (M, K, H), after a ReLU if asked, and its variant; b is 1, 2, … ."""
    x = "positive" if relu else ITEM_SHARED
    one = numpy_helper.from_array(np.array([0], np.int64), "axis")
    bias = numpy_helper.from_array(np.arange(1, weight.shape[2] + 1, dtype=np.float32), "bias")
    nodes = [
        helper.make_node("Gather", ["weight", DOMAIN], ["own"]),
        helper.make_node("Squeeze", ["own", "axis"], ["picked"]),
        helper.make_node("Relu", [ITEM_SHARED], ["positive"]),
        helper.make_node("MatMul", [x, "picked"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["y"]),
    ]
    of = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes if relu else [node for node in nodes if node.op_type != "Relu"],
        "known",
        [
            helper.make_tensor_value_info(ITEM_SHARED, of, [rows, weight.shape[1]]),
            helper.make_tensor_value_info(DOMAIN, TensorProto.INT64, [1]),
        ],
        [helper.make_tensor_value_info("y", of, [rows, weight.shape[2]])],
        [numpy_helper.from_array(weight, "weight"), one, bias],
        value_info=[helper.make_tensor_value_info("positive", of, [rows, weight.shape[1]])] if relu else [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    write_by_domain(folder, model, DOMAINS)
    return write_int8(folder, DOMAINS)


def run(folder: Path, domain: str, x: F32) -> F32:
    path = folder / scorer_file(domain, "int8")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    out: F32 = session.run(None, {ITEM_SHARED: x})[0]
    return out


def whole_numbers(rng: np.random.Generator, shape: tuple[int, ...], *, largest: int) -> F32:
    """Return whole numbers of which every row and every column has one of the largest size."""
    found = rng.integers(-largest, largest + 1, shape)
    for i in range(max(shape[-2:])):
        found[..., i % shape[-2], i % shape[-1]] = largest
    return found.astype(np.float32)


def test_whole_numbers_are_exact(tmp_path: Path) -> None:
    """127 steps on each side of zero, 255 above it: these numbers are steps."""
    rng = np.random.default_rng(0)
    weight = whole_numbers(rng, (2, WIDTH, COLUMNS), largest=127)
    x = whole_numbers(rng, (5, WIDTH), largest=127)
    assert write(tmp_path / "any", weight) == 1
    assert write(tmp_path / "positive", weight, relu=True) == 1
    high = whole_numbers(rng, (5, WIDTH), largest=255)
    for number, domain in enumerate(DOMAINS):
        bias = np.arange(1, COLUMNS + 1)
        np.testing.assert_allclose(
            run(tmp_path / "any", domain, x), x @ weight[number] + bias, rtol=1e-6, atol=0.05
        )
        np.testing.assert_allclose(
            run(tmp_path / "positive", domain, high),
            np.maximum(high, 0) @ weight[number] + bias,
            rtol=1e-6,
            atol=0.05,
        )


@pytest.mark.parametrize("relu", [False, True])
def test_a_row_does_not_depend_on_the_others(tmp_path: Path, relu: bool) -> None:
    rng = np.random.default_rng(1)
    write(tmp_path, rng.standard_normal((2, WIDTH, COLUMNS), dtype=np.float32), relu=relu)
    x = rng.standard_normal((40, WIDTH), dtype=np.float32) * np.logspace(-4, 6, 40, dtype=np.float32)[:, None]
    together = run(tmp_path, "mailer", x)
    for chosen in ([0], [39], [7, 3], list(range(39, 10, -1))):
        np.testing.assert_array_equal(run(tmp_path, "mailer", x[chosen]), together[chosen])


@pytest.mark.parametrize("relu", [False, True])
def test_rows_large_and_small_lose_the_same_share(tmp_path: Path, relu: bool) -> None:
    rng = np.random.default_rng(2)
    weight = rng.standard_normal((2, WIDTH, COLUMNS), dtype=np.float32)
    write(tmp_path, weight, relu=relu)
    x = rng.standard_normal((7, WIDTH), dtype=np.float32) * np.logspace(-3, 3, 7, dtype=np.float32)[:, None]
    expected = (np.maximum(x, 0) if relu else x) @ weight[1]
    # Read without what is added, beside which the smallest are lost.
    off = run(tmp_path, "display", x) - run(tmp_path, "display", np.zeros_like(x)) - expected
    size = np.sqrt((expected**2).mean(axis=1))
    assert bool((np.abs(off).max(axis=1)[1:] < 0.05 * size[1:]).all())


def test_columns_of_small_values_and_large_weights_are_not_lost(tmp_path: Path) -> None:
    """As normalization folded into the weights makes them."""
    rng = np.random.default_rng(3)
    reach = np.logspace(-2, 2, WIDTH, dtype=np.float32)
    weight = rng.standard_normal((2, WIDTH, COLUMNS), dtype=np.float32) * reach[:, None]
    write(tmp_path, weight)
    x = rng.standard_normal((9, WIDTH), dtype=np.float32) / reach
    expected = x @ weight[0] + np.arange(1, COLUMNS + 1)
    off = np.sqrt(((run(tmp_path, "mailer", x) - expected) ** 2).mean())
    assert off < 0.02 * np.sqrt(WIDTH)


def test_rows_and_columns_of_zeros_give_what_is_added(tmp_path: Path) -> None:
    weight = np.ones((2, WIDTH, COLUMNS), np.float32)
    weight[:, :, 3] = 0
    weight[:, 5] = 0
    for relu in (False, True):
        write(tmp_path / str(relu), weight, relu=relu)
        x = np.zeros((2, WIDTH), np.float32)
        x[1, 5] = 4.0
        got = run(tmp_path / str(relu), "mailer", x)
        np.testing.assert_array_equal(got, np.tile(np.arange(1, COLUMNS + 1, dtype=np.float32), (2, 1)))


@pytest.mark.parametrize(
    ("shape", "rows"),
    [
        ((2, WIDTH - 1, COLUMNS), "candidates"),
        ((2, WEIGHTS_MIN, COLUMNS_MIN - 1), "candidates"),
        ((2, WIDTH, COLUMNS), ""),
    ],
    ids=["a small weight", "few columns", "rows that are not candidates"],
)
def test_where_nothing_is_gained_nothing_is_written(
    tmp_path: Path, shape: tuple[int, int, int], rows: str
) -> None:
    assert write(tmp_path, np.ones(shape, np.float32), rows=rows) == 0
    assert sorted(p.name for p in (tmp_path / "scorer").iterdir()) == [
        "display.onnx",
        "mailer.onnx",
        "weights.bin",
    ]


def test_weights_are_held_in_a_byte_each(tmp_path: Path) -> None:
    write(tmp_path, np.ones((2, WIDTH, COLUMNS), np.float32))
    path = tmp_path / scorer_file("mailer", "int8")
    held = {t.data_type for t in onnx.load(str(path)).graph.initializer if np.prod(t.dims) == WEIGHTS_MIN}
    assert held == {TensorProto.INT8}
    assert path.stat().st_size < 1.5 * WEIGHTS_MIN
    assert path.stat().st_mode & 0o777 == 0o644
