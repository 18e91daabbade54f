from __future__ import annotations

import pytest

from benchmarks.reference_model import MODEL, Reference
from benchmarks.systems import Subject


@pytest.fixture(scope="session")
def reference(tmp_path_factory):
    """A reference model of few items, as `python -m benchmarks.reference_model` writes it."""
    written = Reference(tmp_path_factory.mktemp("reference"), items_count=1_000)
    written.write()
    return written


@pytest.fixture(scope="session")
def subject(reference):
    """What systems are started on."""
    return Subject(reference.registry, MODEL, reference.training_graph, reference.plan, reference.store)
