"""SIM with hard search (arXiv:2006.05639): attention over the behaviors of the target's own category.

    r_i = 1 where category of behavior i = category of the target, else 0       GSU, no parameters
    out = target attention over the newest `keep` of those with r_i = 1          ESU, `modules/searched_attention.py`

The category is any feature of items, named by the option `by`. Equal ids have equal rows in the feature's
table, so equality is asked of the embeddings, by a fingerprint that is computed to the same bits everywhere
(`modules/exact_projection.py`); no id has to reach the served graph. Items of an unknown category match each
other: unknown is a value like any other.

A target of a category that the history lacks gets the zero vector, as an empty history does; the paper leaves
this open. The paper keeps all of a category's behaviors (capped at 200 where they are stored).
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from training.errors import ConfigError
from training.modules.exact_projection import Fingerprint
from training.modules.search import Search, keep_newest
from training.modules.search_options import SearchedAttentionOptions
from training.modules.searched_attention import SearchedAttention
from training.modules.split import ItemLayout


class Options(SearchedAttentionOptions):
    """Options of the module."""

    by: str = Field(description="the item feature whose equality makes a match, e.g. product_type")


def reads(options: Options) -> str:
    """Return the part of the history that is read."""
    return options.part


class CategorySearch(Search):
    """Keeps the newest behaviors whose items have the target's value of one feature."""

    def __init__(self, where: slice, keep: int | None) -> None:
        """`where` is the slice of an item's embedding that embeds the feature."""
        super().__init__()
        self.where, self.keep = where, keep
        self.fingerprint = Fingerprint(where.stop - where.start)

    def of_targets(self, target: Tensor) -> Tensor:
        """Return fingerprints (B, 2)."""
        out: Tensor = self.fingerprint(target[..., self.where])
        return out

    def of_items(self, items: Tensor) -> Tensor:
        """Return fingerprints (U, 2)."""
        return self.of_targets(items)

    def kept(self, targets: Tensor, items: Tensor, valid: Tensor) -> Tensor:
        """Return the newest `keep` of equal fingerprint."""
        high, low = (targets[:, :, None, part] == items[:, None, :, part] for part in (0, 1))
        return keep_newest(high & low & valid[:, None], self.keep)


def build(options: Options, *, item: ItemLayout) -> SearchedAttention:
    """Build the module for the embeddings of items.

    Raises:
        ConfigError: items have no feature of the name `by`.
    """
    if options.by not in item.slices:
        raise ConfigError(
            f"sim_hard.by: {options.by!r} is none of the items' features: {', '.join(item.slices)}"
        )
    return SearchedAttention(
        item.width,
        search=CategorySearch(item.slices[options.by], options.keep),
        heads=options.heads,
        head_width=options.head_width,
        out_width=options.out_width,
        crossed=options.crossed,
        mass=options.mass,
    )
