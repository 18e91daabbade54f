from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from service.contract.features import Side
from service.contract.history import F32
from tests.unit.training.checkerboard import CLICK, checkerboard, small_model, spec
from training.config import ModelConfig
from training.data.encoded import EncodedData
from training.fit import fit, predict, probabilities
from training.model import CtrModel
from training.modules.embeddings import FeatureEmbeddings
from training.modules.presentation import BlindEmbeddings, NeutralEmbeddings, SeenTower
from training.progress import Progress
from training.task_losses import TaskLosses

COUNTS = {"price": 4, "shelf": 3, "page": 5, "match": 6}
WIDTHS = {"price": 2, "shelf": 3, "page": 3, "match": 2}
PRESENTED = ("page", "shelf")
IDS = torch.stack([torch.randint(count, (40,)) for count in COUNTS.values()], dim=1)


def test_neutral_embeddings_read_the_unknown_value_but_in_training() -> None:
    made = NeutralEmbeddings(COUNTS, WIDTHS, PRESENTED)
    plain = FeatureEmbeddings(COUNTS, WIDTHS)
    plain.load_state_dict(made.state_dict())
    unknown = IDS.clone()
    unknown[:, 1:3] = 0
    assert torch.equal(made.train()(IDS), plain(IDS))
    assert torch.equal(made.eval()(IDS), plain(unknown))
    assert made.columns_count == 4


def test_blind_embeddings_are_those_of_the_other_features() -> None:
    made = BlindEmbeddings(COUNTS, WIDTHS, PRESENTED)
    assert (made.names, made.width, made.columns_count) == (("price", "match"), 4, 4)
    plain = FeatureEmbeddings({"price": 4, "match": 6}, WIDTHS)
    plain.load_state_dict(made.state_dict())
    assert torch.equal(made(IDS), plain(IDS[:, [0, 3]]))


def test_nothing_but_presentation_is_no_width() -> None:
    assert BlindEmbeddings({"page": 5}, {"page": 3}, ("page",))(IDS[:, 2:3]).shape == (40, 0)


def tower() -> SeenTower:
    return SeenTower(COUNTS, PRESENTED, width=3, hidden=(5,), domains_count=2, seen_at_start=0.8)


def test_all_places_start_equally_likely_to_be_seen() -> None:
    p = torch.sigmoid(tower()(IDS, torch.arange(40) % 2))
    torch.testing.assert_close(p, torch.full((40,), 0.8))


def test_the_tower_reads_presentation_and_domain_and_nothing_else() -> None:
    made = tower()
    torch.nn.init.normal_(made.last.weight)
    domain = torch.arange(40) % 2
    other = IDS.clone()
    other[:, [0, 3]] = 0
    assert torch.equal(made(IDS, domain), made(other, domain))
    assert not torch.equal(made(IDS, domain), made(IDS, 1 - domain))
    other[:, 1] = (other[:, 1] + 1) % 3
    assert not torch.equal(made(IDS, domain), made(other, domain))
    functional.softplus(made(IDS, domain)).sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in made.parameters())


# What each mode makes of clicks that places explain

SEEN = {1: 1.0, 2: 0.25}  # place -> probability of being seen
LIKED = {1: 0.4, 2: 0.6}  # item -> probability of a click, once seen
ROWS = {(1, 1): 1800, (1, 2): 200, (2, 1): 200, (2, 2): 1800}  # (item, place): the worse item is put first


def clicks_by_place() -> EncodedData:
    """Return rows of two items in two places, with exactly the clicks that the probabilities say; one a request."""
    item, place, click = (
        np.concatenate(columns)
        for columns in zip(
            *(
                (np.full(n, i), np.full(n, p), np.arange(n) < round(n * SEEN[p] * LIKED[i]))
                for (i, p), n in ROWS.items()
            ),
            strict=True,
        )
    )
    order = np.random.default_rng(0).permutation(len(item))
    rows = len(item)
    base = checkerboard(visits_per_user=rows // 10)
    each = np.arange(rows + 1)
    history = base.parts["recents"]
    return replace(
        base,
        features=(*base.features, spec("place", Side.CANDIDATE, 2)),
        exposure=np.arange(rows),
        item=item[order],
        candidate_ids=place[order][:, None],
        labels=click[order][:, None].astype(np.float32),
        keep_probability=np.ones(rows),
        row_request=np.arange(rows),
        user_ids=np.zeros_like(base.user_ids),
        row_starts=each,
        request_starts=each,
        parts=dict.fromkeys(base.parts, history),
    )


def likings(mode: str, *, loss: str = "bce") -> F32:
    """Return the click probabilities served for the two items in the second place, then in the first, (4,)."""
    data = clicks_by_place()
    presentation: dict[str, Any] = {"features": ["place"], "mode": mode}
    config = ModelConfig.model_validate(
        small_model(
            losses={"default": loss}, fit={"cold_start_ratio": 0.1 if mode == "neutral" else 0.0}
        ).model_dump(mode="json")
        | {"backbone": {"name": "mlp", "hidden": [8], "domain_width": 0}, "presentation": presentation}
    )
    config = config.model_copy(
        update={
            "fit": config.fit.model_copy(
                update={
                    "epochs": 30 if mode == "pal" else 12,
                    "batch_rows": 200,
                    "cold_start_ratio": 0.1 if mode == "neutral" else 0.0,
                }
            )
        }
    )
    if mode == "none":
        data = data.restricted_to(data.features[:2])
    losses = TaskLosses(config, (CLICK,))
    torch.manual_seed(0)
    model = CtrModel(
        config,
        features=data.features,
        item_ids=torch.from_numpy(data.item_ids),
        domains_count=2,
        tasks_count=1,
        logit_columns=losses.logit_columns,
    )
    fit(
        model,
        losses,
        data,
        config=config.fit,
        train_visits=np.arange(len(data.visit_user)),
        validation_visits=np.zeros(0, np.int64),
        boundaries_ms=np.zeros(0, np.int64),
        progress=Progress(quiet=True),
    )
    asked = data.item[:4].copy()
    asked[:] = [1, 2, 1, 2]
    ids = data.candidate_ids[:4].copy()
    if ids.shape[1]:
        ids[:, 0] = [2, 2, 1, 1]
    shown = replace(
        data,
        item=np.concatenate([asked, data.item[4:]]),
        candidate_ids=np.concatenate([ids, data.candidate_ids[4:]]),
    )
    return probabilities(predict(model, shown, np.arange(4)), (CLICK,))[:, 0]


def test_without_the_place_the_item_that_stands_first_seems_the_better_one() -> None:
    p = likings("none")
    np.testing.assert_allclose(p[:2], [0.37, 0.195], rtol=0.1)
    np.testing.assert_array_equal(p[:2], p[2:])


def test_as_a_feature_the_place_is_what_the_request_says() -> None:
    np.testing.assert_allclose(likings("feature"), [0.1, 0.15, 0.4, 0.6], rtol=0.15)


def test_neutral_serves_one_probability_whatever_the_place() -> None:
    p = likings("neutral")
    np.testing.assert_array_equal(p[:2], p[2:])


@pytest.mark.parametrize("loss", ["bce", "jrc"])
def test_pal_finds_how_much_the_items_are_liked_once_seen(loss: str) -> None:
    """But for one factor, which no data of clicks can tell."""
    p = likings("pal", loss=loss)
    np.testing.assert_array_equal(p[:2], p[2:])
    assert p[1] / p[0] == pytest.approx(LIKED[2] / LIKED[1], rel=0.15)
