"""Fixtures of tests over several folders."""

from __future__ import annotations

import os

# Before torch is loaded: the models of tests are too small to share, and threads that wait spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.valkey_tcp import ValkeyTcp

if TYPE_CHECKING:
    from training.config import PipelineConfig


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run coroutine tests on asyncio, once: the service runs on nothing else."""
    return "asyncio"


@pytest.fixture(scope="session")
def valkey_tcp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyTcp]:
    """One server for all tests that leave it running. Whoever uses it uses user ids of its own."""
    with ValkeyTcp(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def own_valkey_tcp(tmp_path: Path) -> Iterator[ValkeyTcp]:
    """A server for one test that freezes, kills or fills it."""
    with ValkeyTcp(tmp_path) as server:
        yield server


@pytest.fixture(scope="session")
def finished_pipeline(tmp_path_factory: pytest.TempPathFactory) -> PipelineConfig:
    """A pipeline over the synthetic logs that ran up to `verify`. Whoever changes its folders copies them."""
    from tests.support.pipelines import run
    from tests.support.synthetic_dataset import tiny_config
    from training.pipeline import steps_of

    folder = tmp_path_factory.mktemp("pipeline")
    config = tiny_config(folder / "workspace", folder / "registry", "memory://")
    run(config, *(step for step in steps_of(config) if step.stage != "publish"))
    return config
