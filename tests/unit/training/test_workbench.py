"""What a model sees of a pipeline's data: the features and domains that its config names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from service.contract.features import Side
from service.contract.statistics import level_of
from tests.support.synthetic_dataset import DOMAINS
from training.config import ModelConfig, PipelineConfig
from training.data.encoded import COUNTED_SIDES
from training.errors import ConfigError
from training.progress import Progress
from training.workbench import Workbench


@pytest.fixture(scope="module")
def bench(finished_pipeline: PipelineConfig) -> Workbench:
    return Workbench(finished_pipeline)


def model(**changes: Any) -> ModelConfig:
    return ModelConfig.model_validate({"backbone": "mlp", **changes})


def names_of(bench: Workbench, *leave_out: str) -> list[str]:
    return [feature.name for feature in bench.features_of(model(leave_out=leave_out))]


def test_a_model_that_leaves_nothing_out_reads_every_feature(bench: Workbench) -> None:
    assert bench.features_of(model()) == bench.features


@pytest.mark.parametrize("name", ["user_id", "hour_of_day", "position", "price", "match_item_id_count"])
def test_a_feature_is_left_out_by_its_name_and_the_others_keep_their_order(
    bench: Workbench, name: str
) -> None:
    assert names_of(bench, name) == [feature.name for feature in bench.features if feature.name != name]


@pytest.mark.parametrize("side", COUNTED_SIDES)
def test_all_that_is_counted_of_a_side_is_left_out_by_the_sides_name(bench: Workbench, side: Side) -> None:
    kept = bench.features_of(model(leave_out=[side.value]))
    assert kept == tuple(feature for feature in bench.features if feature.side is not side)
    assert len(kept) < len(bench.features)


def test_what_is_counted_by_a_feature_of_items_is_left_out_with_it(bench: Workbench) -> None:
    """But for counts of the very item, which no vocabulary decides."""
    kept = bench.features_of(model(leave_out=["category", "item_id"]))
    levels = {level_of(feature) for feature in kept if feature.side is Side.MATCH}
    assert levels == {"any", "item_id"}
    assert [feature.name for feature in kept if feature.side is Side.ITEM] == ["price"]


@pytest.mark.parametrize("name", ["yeers", "item", "user", "match_brand_count", ""])
def test_a_feature_that_there_is_not_cannot_be_left_out(bench: Workbench, name: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"leave_out: the dataset has no feature '{name}'; it has category,"
    ):
        names_of(bench, "years", name)


def test_a_model_without_any_feature_of_the_item_is_refused(bench: Workbench) -> None:
    with pytest.raises(ConfigError, match="leave_out: a model must read at least one feature of the item"):
        names_of(bench, "item_id", "category", "price")


def test_a_model_that_names_no_domain_has_all(bench: Workbench) -> None:
    assert bench.domains_of(model()) == DOMAINS


def test_domains_come_in_the_datasets_order(bench: Workbench) -> None:
    assert bench.domains_of(model(domains=["mail", "home"])) == ("home", "mail")


def test_a_domain_that_there_is_not_is_refused(bench: Workbench) -> None:
    with pytest.raises(
        ConfigError, match="domains: the dataset has no domain 'shop'; it has home, search, mail"
    ):
        bench.domains_of(model(domains=["home", "shop"]))


def test_a_model_sees_the_data_of_its_features_and_domains(bench: Workbench) -> None:
    progress = Progress(quiet=True)
    config = model(domains=["mail"], leave_out=["match", "years"])
    data, whole = bench.encoded_for(config, progress), bench.encoded(progress)
    assert (data.features, data.domains) == (bench.features_of(config), ("mail",))
    rows = np.flatnonzero(whole.domain[whole.row_request] == whole.domains.index("mail"))
    assert data.exposure.tolist() == rows.tolist()
    assert bench.encoded_for(model(), progress) is whole
