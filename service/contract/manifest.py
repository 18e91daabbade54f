"""The manifest: what an artefact says of itself. Written last, so an artefact without one is not there.

Knows nothing of reading files; `artefact.py` does that.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.contract.catalogue import CatalogueRef
from service.contract.features import FeatureSpec, Side
from service.contract.history import HistoryLimits

FORMAT_VERSION: Final = 3

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
"""Names that are folders, header values and metric labels: models, domains, tasks, arms, layers, lines."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


EntireSpace = Literal["conditional", "product", "direct"]
"""How a task that is `given` another was fitted over rows where the other did not happen."""


class TaskSpec(_Frozen):
    """One outcome predicted. With `given`, the probability served is never more than that of `given`.

    `conditional` and `product`: the logit is that of the task among rows where `given` happened, and the
    probability is the product of both. `direct`: the logit is that of the task among all rows, and the
    probability is the lesser of both.
    """

    name: Name
    given: Name | None = None
    entire_space: EntireSpace = "conditional"


class FileEntry(_Frozen):
    """One file of the artefact."""

    sha256: str
    size_bytes: int
    xxh3: str | None = Field(default=None, description="of 128 bits; none in artefacts of older releases")


class Parity(_Frozen):
    """What `verify` measured: the training graph in torch against the served graph in ONNX Runtime."""

    rows_count: int
    logit_difference_max: float
    logit_difference_limit: float


Precision = Literal["fp32", "int8"]
"""What an artefact's graphs compute in. Every artefact has fp32; the others are variants that passed a gate."""


class Distance(_Frozen):
    """How far scores are from those that they stand for.

    Measured by `verify` on rows of the test weeks. Metrics are natural; each figure is the largest over all domains,
    each and together, and tasks.
    """

    rows_count: int
    auc_drop_max: float
    pcoc_change_max: float
    probability_difference_max: float
    log_odds_difference_max: float


class Variant(Distance):
    """Graphs of less precision that the artefact carries too, and how far they are from those in fp32. The difference
    in log-odds is over golden requests too."""

    precision: Precision


class SampledLifeCycles(Distance):
    """How far the scores of life cycles of more than `history.clusters_max` clusters are from those of all clusters."""

    sampled_rows_count: int = Field(description="of those life cycles, among the rows")


class TaskMetrics(_Frozen):
    """Natural-rate test metrics of one domain and task; None where undefined (one class only)."""

    domain: str
    task: str
    rows_count: int
    positives_count: int
    auc: float | None
    gauc: float | None
    log_loss: float | None
    pcoc: float | None
    calibration_error: float | None


class SearchSpec(_Frozen):
    """A search (GSU) of a module: it keeps `keep` positions of a part of the history for each candidate."""

    interest: Name
    part: Literal["clusters", "recents", "behaviors"]
    keep: int = Field(ge=1)
    newest_first: bool = Field(
        description="whether the last position wins of those ranked equal, not the first"
    )


class Searches(_Frozen):
    """All searches of a model, and what the graph reads that ranks for them."""

    each: tuple[SearchSpec, ...]
    graph_inputs: tuple[str, ...]


class Manifest(_Frozen):
    """Everything the service must know to score with an artefact, and everything a person asks of one."""

    format_version: Literal[3] = 3
    name: Name
    version: str = Field(
        default="", description="content hash of all else in here but created_at and files' xxh3"
    )
    created_at: str
    backbone: str
    interests: tuple[str, ...]
    calibration: str | None = Field(default=None, description="post-hoc, folded into the graph")
    dataset_fingerprint: str
    catalogue: CatalogueRef
    snapshot_line: Name
    domains: tuple[Name, ...]
    tasks: tuple[TaskSpec, ...]
    features: tuple[FeatureSpec, ...] = Field(
        description="in the order of the graph's id tensors, side by side"
    )
    item_features: tuple[FeatureSpec, ...] = Field(
        description="in the order of the item encoder's ids; item_id without its values, which are the catalogue"
    )
    match_key_ends: tuple[int, ...] = Field(description="the last match key of each level, see match.py")
    history: HistoryLimits
    items_count: int = Field(description="rows of the item tables, the cold-start row 0 included")
    graph_inputs: tuple[str, ...] = Field(description="of the graph of every domain")
    searches: Searches | None = None
    parity: Parity
    variants: tuple[Variant, ...] = ()
    sampled_life_cycles: SampledLifeCycles | None = Field(
        default=None, description="none where no row that was compared has so long a life cycle"
    )
    metrics: tuple[TaskMetrics, ...]
    files: dict[str, FileEntry]

    def features_of(self, *sides: Side) -> tuple[FeatureSpec, ...]:
        """Return the features of some sides, in their order in the graph's id tensors."""
        return tuple(feature for side in sides for feature in self.features if feature.side is side)

    def variant(self, precision: Precision) -> Variant | None:
        """Return the variant of a precision, None where the artefact carries none."""
        return next((variant for variant in self.variants if variant.precision == precision), None)

    def content_version(self) -> str:
        """Return the version: the first 12 hexadecimal digits of the SHA-256 of the content."""
        content = self.model_copy(update={"version": "", "created_at": ""})
        body = content.model_dump_json(exclude={"files": {"__all__": {"xxh3"}}})
        return hashlib.sha256(body.encode()).hexdigest()[:12]
