"""Settings of `twinstar-score`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import Field
from pydantic_settings import CliPositionalArg, CliToggleFlag, SettingsConfigDict

from service.contract.manifest import Name
from service.settings import PREFIX, Sources
from service.stores.base import StoreSettings

AT_COLUMN: Final = "at_ms"
REQUEST_COLUMN: Final = "request_id"


class ScoreFileSettings(Sources):
    """Score the candidates in a Parquet file through the same stages as POST /score, to the same probabilities.

    A row is a candidate: user_id, item_id, domain, and perhaps request_id and at_ms. Columns named after a feature
    of the context or of candidates are sent as such. A request is a run of rows with the same request_id or,
    where there is no such column, the same user_id, at_ms and domain. The output has the input's columns, a column of
    probabilities for each task, `model` and `degraded`; it appears once it is whole. Options go before environment
    variables (--store-url is TWINSTAR_STORE_URL).
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", cli_shortcuts={"json-summary": "json"}
    )

    input_file: CliPositionalArg[Path] = Field(description="Parquet file of candidates")
    output_file: CliPositionalArg[Path] = Field(description="file to write; one that is there is replaced")
    model: Name | None = Field(default=None, description="score with this model, not by the experiments file")
    domain: str | None = Field(default=None, description="domain of all rows, in place of a column")
    at_ms: int | None = Field(
        default=None,
        ge=0,
        description="moment of all requests, in place of a column; without both it is when the command began",
    )
    user_column: str = Field(default="user_id", description="column of users")
    item_column: str = Field(default="item_id", description="column of candidates")
    domain_column: str = Field(default="domain", description="column of domains")
    at_column: str = Field(default=AT_COLUMN, description="column of moments: ms since 1970, or timestamps")
    request_column: str = Field(default=REQUEST_COLUMN, description="column that tells requests apart")
    keep: list[str] | None = Field(default=None, description="the input's columns to write; all unless told")
    prefix: str = Field(default="probability_", description="of the names of the tasks' columns")
    limit: int | None = Field(default=None, ge=1, description="score only so many rows, the first")
    candidates_max_count: int = Field(
        default=5000, ge=1, description="candidates scored at once; a longer request is scored in parts"
    )
    accept_missing_history: CliToggleFlag[bool] = Field(
        default=False, description="where the store fails, score without life cycles and say so in `degraded`"
    )
    store_timeout_ms: int = Field(default=5000, ge=1, description="what a read of the store may take")
    json_summary: CliToggleFlag[bool] = Field(default=False, description="print the summary as JSON")

    def store_settings(self) -> StoreSettings:
        """Return what the store's client is told."""
        return StoreSettings(timeout_ms=self.store_timeout_ms)
