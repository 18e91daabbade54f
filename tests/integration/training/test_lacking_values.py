"""A request that lacks values is scored like a request, not by numbers that were never learned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from training.config import PipelineConfig
from training.data.encoded import EncodedData
from training.fit import predict
from training.progress import Progress
from training.stages.train import load_model
from training.workbench import Workbench

LOG_ODDS_BEYOND_MAX = 2.0


def without(data: EncodedData, what: str) -> EncodedData:
    lacking = {"every value": ("user_ids", "candidate_ids", "item"), "its context": ("user_ids",)}.get(
        what, (what,)
    )
    return replace(data, **{name: np.zeros_like(getattr(data, name)) for name in lacking})


@pytest.mark.parametrize("model", ["star", "pepnet"])
@pytest.mark.parametrize("what", ["candidate_ids", "item", "its context", "every value"])
def test_a_request_without_values_lies_among_those_that_have_them(
    finished_pipeline: PipelineConfig, model: str, what: str
) -> None:
    bench = Workbench(finished_pipeline)
    progress = Progress(quiet=True)
    data = bench.encoded(progress)
    trained = load_model(bench, model, progress)
    visits = data.visits_of("test")
    usual = predict(trained, data, visits)[:, 0]
    lacking = predict(trained, without(data, what), visits)[:, 0]
    assert usual.min() - LOG_ODDS_BEYOND_MAX < lacking.min()
    assert lacking.max() < usual.max() + LOG_ODDS_BEYOND_MAX
