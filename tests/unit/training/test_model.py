"""A model's composition: which input reaches which module, row by row."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from service.contract.features import Side
from service.contract.history import HistoryLimits
from tests.support.synthetic_encoded import tiny_encoded
from training.config import ModelConfig
from training.data.encoded import EncodedData
from training.errors import ConfigError
from training.fit import batch_builder
from training.model import CtrModel, parameters_by_kind
from training.modules.split import HistoryPart, RowLayout

CANDIDATE_SIDES = (Side.CANDIDATE, Side.MATCH, Side.POPULARITY)
TWIN = {"name": "twin_v2", "heads": 2, "head_width": 3, "out_width": 4}
SHORT = {"name": "short_term", "heads": 1, "head_width": 3, "out_width": 2, "mass": True}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EncodedData:
    return tiny_encoded(tmp_path_factory.mktemp("logs"), limits=HistoryLimits(behaviors_max=40))[1]


def build(data: EncodedData, **changes: object) -> CtrModel:
    torch.manual_seed(2)
    config = ModelConfig.model_validate(
        {
            "backbone": {"name": "pepnet", "hidden": [6]},
            "interests": [TWIN, SHORT],
            "embedding_width": 3,
            "embedding_widths": {"item_id": 5, "device": 1},
            **changes,
        }
    )
    model = CtrModel(
        config,
        features=data.features,
        item_ids=torch.from_numpy(data.item_ids),
        domains_count=3,
        tasks_count=2,
        logit_columns=2,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.eval()


def test_every_row_is_scored_from_its_own_request_user_history_and_item(data: EncodedData) -> None:
    model, visits = build(data), data.visits_of("validation")[::5]
    with torch.no_grad():
        out = model(batch_builder(data).build(visits))
    for place, row in enumerate(data.rows_of(visits)):
        request = int(data.row_request[row])
        visit = int(data.request_visit[request])
        item = model.item(torch.from_numpy(data.item_ids[data.item[row]]))[None]
        interests = []
        for name, part_name in (("twin_v2", "clusters"), ("short_term", "recents")):
            part = data.parts[part_name]
            mine = slice(part.starts[visit], part.starts[visit + 1])
            if mine.start == mine.stop:
                interests.append(torch.zeros(1, 4 if name == "twin_v2" else 3))
                continue
            history = HistoryPart(
                model.item(torch.from_numpy(data.item_ids[part.item[mine].astype(int)])),
                torch.arange(mine.stop - mine.start)[None],
                torch.from_numpy(part.size[mine])[None],
                torch.from_numpy(part.age[mine].astype(int))[None],
                torch.from_numpy(part.strength[mine].astype(int))[None],
            )
            first = torch.zeros(1, dtype=torch.int64)
            interests.append(model.interests[name](item, history, RowLayout(first, first, 1)))
        with torch.no_grad():
            alone = model.backbone(
                model.user(torch.from_numpy(data.user_ids[request]))[None],
                item,
                model.candidate(torch.from_numpy(data.candidate_ids[row]))[None],
                torch.cat(interests, dim=-1),
                torch.tensor([data.domain[request]]),
            )
        torch.testing.assert_close(out[place], alone[0], atol=1e-5, rtol=1e-5)


def test_features_lie_by_side_each_in_its_width(data: EncodedData) -> None:
    model = build(data)
    names = {side: [f.name for f in data.features if f.side is side] for side in Side}
    assert list(model.user.names) == names[Side.USER] + names[Side.CONTEXT]
    assert list(model.item.names) == names[Side.ITEM]
    assert list(model.candidate.names) == [name for side in CANDIDATE_SIDES for name in names[side]]
    assert model.item.width == 5 + 3 + 3 and model.user.width == 5 * 3 + 1
    counted = len(model.candidate.names) - len(names[Side.CANDIDATE])
    assert model.candidate.width == 3 * len(names[Side.CANDIDATE]) + 4 * counted  # a width of their own
    for embeddings in (model.user, model.item, model.candidate):
        counts = [len(embeddings.table_of(name)) for name in embeddings.names]
        encoders = {f.name: f.encoder for f in data.features}
        assert counts == [encoders[name].ids_count for name in embeddings.names]


def test_row_zero_is_the_item_of_which_all_is_unknown(data: EncodedData) -> None:
    model = build(data)
    unknown = torch.zeros(3, dtype=torch.int64)
    assert torch.equal(model.embed_items(torch.tensor([0]))[0], model.item(unknown))
    assert model.embed_items(torch.tensor([[1, 2], [0, 3]])).shape == (2, 2, 11)


DIN = {"name": "din", "hidden": [4], "last": 40, "part": "behaviors"}
SIM = {"name": "sim_hard", "by": "category", "heads": 1, "head_width": 3}


@pytest.mark.parametrize(
    ("interest", "part"), [(TWIN, "clusters"), (SHORT, "recents"), (SIM, "behaviors"), (DIN, "behaviors")]
)
def test_an_interest_reads_its_part_of_the_history_alone(
    data: EncodedData, interest: dict[str, object], part: str
) -> None:
    model = build(data, interests=[interest])
    batch = batch_builder(data).build(data.visits_of("test"))
    with torch.no_grad():
        before = model(batch)
        for name in ("clusters", "recents", "behaviors"):
            empty = replace(batch.parts[name], size=torch.zeros_like(batch.parts[name].size))
            after = model(replace(batch, parts={**batch.parts, name: empty}))
            assert torch.equal(before, after) == (name != part)


def test_a_model_of_some_features_reads_those_alone(data: EncodedData) -> None:
    left_out = {"years", "position", "price", "match_any_days", "match_category_days"}
    kept = tuple(f for f in data.features if f.name not in left_out)
    less = data.restricted_to(kept)
    model = build(less)
    assert set(model.user.names + model.item.names + model.candidate.names) == {f.name for f in kept}
    visits = data.visits_of("test")
    batch = batch_builder(less).build(visits)
    assert batch.user_ids.shape[1] == len(model.user.names)
    assert batch.candidate_ids.shape[1] == len(model.candidate.names)
    with torch.no_grad():
        assert model(batch).shape == (len(batch.item), 2, 2)


def test_without_interests_the_history_is_not_read(data: EncodedData) -> None:
    model = build(data, interests=[])
    batch = batch_builder(data).build(data.visits_of("test"))
    assert model(replace(batch, parts={})).shape == (len(batch.item), 2, 2)


def test_item_features_are_data_not_parameters(data: EncodedData) -> None:
    assert "item_ids" not in build(data).state_dict()


@pytest.mark.parametrize(
    "changes", [{"backbone": "wide"}, {"interests": ["twin_v3"]}], ids=["backbone", "interest"]
)
def test_a_plug_in_that_is_not_there_is_a_config_error(data: EncodedData, changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"wide|twin_v3"):
        build(data, **changes)


def test_every_parameter_is_of_one_kind(data: EncodedData) -> None:
    model = build(data)
    kinds = parameters_by_kind(model)
    assert set(kinds) == {"embeddings", "dense"}
    ids = [id(p) for kind in kinds.values() for p in kind]
    assert sorted(ids) == sorted({id(p) for p in model.parameters()})
    tables = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)]
    assert {id(p) for p in kinds["embeddings"]} == {id(t) for t in tables}
