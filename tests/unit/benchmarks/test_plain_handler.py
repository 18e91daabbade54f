from __future__ import annotations

import ast
import asyncio
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import msgspec
import numpy as np
import orjson
import pytest

from benchmarks.plain_handler import (
    REQUIREMENTS,
    SERVED,
    TRAINING,
    AsyncHandler,
    BlockingHandler,
    PlainSettings,
    ScoreRequest,
    is_json,
    tensors_body,
    tensors_of,
    tensors_of_document,
)
from benchmarks.reference_model import CLUSTERS_COUNTS
from benchmarks.systems import check_agreement, ours, plain, scores_of, starlette, store_running

GRAPHS = (TRAINING, SERVED)


@pytest.fixture(scope="module")
def store(reference):
    with store_running(reference.store, None):
        yield


@pytest.fixture(scope="module")
def settings(subject, store):
    def of(graph):
        environment = subject.plain_environment(graph)
        return PlainSettings(**{name.removeprefix("PLAIN_").lower(): v for name, v in environment.items()})

    return of


def asks_of(reference, count=3):
    return [ask for c in CLUSTERS_COUNTS[:3] for ask in reference.workload(n=30, c=c, asks_count=count).asks]


@pytest.mark.slow
def test_the_plain_services_and_bare_starlette_give_the_probabilities_of_the_service(
    reference, subject, store, tmp_path
):
    asks = asks_of(reference)
    systems = [ours(subject), plain(subject, TRAINING), plain(subject, SERVED), starlette(subject)]
    up = []
    try:
        for system in systems:
            context = system.started(tmp_path, None, asks[0])
            up.append((system, context.__enter__(), context))
        found = check_agreement([(system, server) for system, server, _ in up], asks)
    finally:
        for _, _, context in up:
            context.__exit__(None, None, None)

    assert set(found) == {system.name for system in systems[1:]}


def test_both_graphs_give_the_same_probabilities_to_ids_and_to_ready_tensors(reference, settings):
    handlers = {graph: BlockingHandler(settings(graph)) for graph in GRAPHS}

    for ask in asks_of(reference):
        request = ScoreRequest.model_validate_json(ask.body)
        answers = []
        for graph, handler in handlers.items():
            answers.append(handler.answer(ask.body))
            feeds = handler.feeds(request, ask.domain, handler.stored(request.user_id), graph)
            answers.append(handler.answer(tensors_body(graph, ask.domain, feeds)))
            document = orjson.loads(tensors_body(graph, ask.domain, feeds, base64=True))
            answers.append(handler.answer_document(document))
        first, *others = (scores_of(orjson.loads(answer)).probability for answer in answers)
        assert first.shape == (30, 2) and first.std() > 0
        for other in others:
            np.testing.assert_allclose(other, first, atol=1e-6)


def test_a_body_whose_json_was_parsed_already_has_the_same_answer(reference, settings):
    handler = BlockingHandler(settings(SERVED))
    ask = asks_of(reference)[0]

    assert handler.answer_document(orjson.loads(ask.body)) == handler.answer(ask.body)


def test_the_handler_of_an_event_loop_has_the_same_answer(reference, settings):
    ask = asks_of(reference)[-1]

    async def answer():
        handler = AsyncHandler(settings(SERVED))
        try:
            return await handler.answer(ask.body)
        finally:
            await handler.close()

    assert asyncio.run(answer()) == BlockingHandler(settings(SERVED)).answer(ask.body)


@pytest.mark.parametrize("base64", [False, True])
def test_ready_tensors_come_back_as_they_were(base64):
    feeds = {"a": np.arange(6, dtype=np.int64).reshape(2, 3), "b": np.zeros((0, 2), np.float32)}

    body = tensors_body(SERVED, "home", feeds, base64=base64)

    assert is_json(body) == base64
    graph, domain, found = tensors_of_document(orjson.loads(body)) if base64 else tensors_of(body)
    assert (graph, domain) == (SERVED, "home")
    for name, array in feeds.items():
        np.testing.assert_array_equal(found[name], array)
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)


def test_ready_tensors_for_a_graph_that_there_is_not_are_refused():
    with pytest.raises(msgspec.ValidationError):
        tensors_of(msgspec.msgpack.encode({"graph": "another", "inputs": {}}))


def test_what_it_imports_is_what_an_environment_of_a_peer_has():
    command = (
        "import sys, benchmarks.plain_handler\n"
        "print(*(m.__file__ for n, m in sys.modules.items() if n.startswith(('benchmarks.', 'service.'))))"
    )
    loaded = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    imported = {
        name.partition(".")[0]
        for path in loaded.stdout.split()
        for node in ast.walk(ast.parse(Path(path).read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
    }
    of_package = packages_distributions()
    others = imported - sys.stdlib_module_names - {"benchmarks", "service"}
    assert {"msgspec", "numpy"} <= others
    assert {of_package[name][0].replace("_", "-") for name in others} <= set(REQUIREMENTS)
