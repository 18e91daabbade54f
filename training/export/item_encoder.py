"""The item encoder: from the features of an item to what the item tables would hold of it.

An item without a row has no value of `item_id` that the model could know, so of that feature only the unknown value
is left: its vectors, by far the most of a large catalogue, are not carried.
"""

from __future__ import annotations

from torch import Tensor, nn

from service.contract.features import CategoricalEncoder, FeatureSpec, Side
from service.contract.match import ITEM
from training.export.served_scorer import ServedScorer
from training.model import CtrModel


def new_item_features(features: tuple[FeatureSpec, ...]) -> tuple[FeatureSpec, ...]:
    """Return the features that the encoder reads, in their order; `item_id` knows no value."""
    return tuple(
        f.model_copy(update={"encoder": CategoricalEncoder(values=())}) if f.name == ITEM else f
        for f in features
        if f.side is Side.ITEM
    )


class ItemEncoder(nn.Module):
    """Item feature ids in, rows of the item tables out; computed as `ServedScorer.item_tables` does."""

    def __init__(self, model: CtrModel, scorer: ServedScorer) -> None:
        super().__init__()
        self.item = model.item.without_values_of(ITEM)
        self.scorer = scorer

    def rows_of(self, item_feature_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is stored per item, shared (K, Ws) and by domain (M, K, Wd), of feature ids (K, FI)."""
        return self.scorer.item_rows(self.item(item_feature_ids))

    def forward(self, item_feature_ids: Tensor) -> tuple[Tensor, ...]:
        """Return those of them that are not 0 wide."""
        return tuple(rows for rows in self.rows_of(item_feature_ids) if rows.shape[-1])
