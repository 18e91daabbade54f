"""Settings: one tree, from the environment (`TWINSTAR_` and the name in capitals) or the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.contract.manifest import Precision
from service.errors import StartupError
from service.stores.base import StoreSettings

PREFIX = "TWINSTAR_"


SettingsT = TypeVar("SettingsT", bound=BaseSettings)


def settings_of(kind: type[SettingsT], arguments: Sequence[str], *, command: str) -> SettingsT:
    """Return the settings of a command line over those of the environment.

    Raises:
        StartupError: a value does not fit.
    """
    command_line: dict[str, Any] = {
        "_cli_parse_args": list(arguments),
        "_cli_prog_name": command,
        "_cli_kebab_case": True,
    }
    try:
        return kind(**command_line)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(part) for part in one['loc']) or 'settings'}: {one['msg']}"
            for one in error.errors()
        )
        raise StartupError(f"{wrong}; --help lists the settings") from error


class Sources(BaseSettings):
    """What is scored with: artefacts, store, threads."""

    registry: Path = Field(
        default=Path("artefacts"), description="folder of models, catalogues and snapshots"
    )
    store_url: str = Field(
        default="embedded://artefacts/store",
        description="where users' life cycles are: embedded://folder, redis://host:port/db or memory://",
    )
    experiments_file: Path = Field(
        default=Path("deploy/experiments.yaml"),
        description="which arm of which layer scores with which model",
    )
    precision: Precision = Field(
        default="fp32",
        description="what models compute in: fp32, or int8 where they carry it; the others stay in fp32",
    )
    threads_count: int = Field(
        default=1,
        ge=1,
        le=512,
        description="threads that share one request's arithmetic, in each worker. 1 gives the most requests a second; "
        "more is for few and large requests, with cores that are idle otherwise",
    )


class Settings(Sources):
    """Serve an artefact registry over HTTP.

    Every setting is an option, and an environment variable: TWINSTAR_ and its name in capitals
    (--store-url is TWINSTAR_STORE_URL). An option goes before its variable.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    host: str = Field(default="127.0.0.1", description="address to listen on; 0.0.0.0 for all")
    port: int = Field(default=8000, ge=0, le=65535, description="port to listen on; 0 for any free one")
    workers: int = Field(default=1, ge=1, le=512, description="processes; one a core scores fastest")
    candidates_max_count: int = Field(default=5000, ge=1, description="candidates in one request")
    new_items_max_count: int = Field(
        default=200,
        ge=0,
        description="candidates with features in one request: those of them without a row of their own go "
        "through the item encoder",
    )
    batch_max_count: int = Field(default=64, ge=1, description="requests in one batch")
    batch_candidates_max_count: int = Field(
        default=20_000, ge=1, description="candidates of all requests of one batch together"
    )
    events_max_count: int = Field(default=1000, ge=1, description="events in one request")
    body_max_bytes: int = Field(
        default=2 * 2**20, ge=1024, description="bytes of one request's body, decompressed too"
    )
    gzip_min_bytes: int = Field(
        default=0,
        ge=0,
        description="from what size on scores are compressed for callers who take gzip; 0 for never. It costs "
        "10 us of the processor a kilobyte, so it is for links that are slow",
    )
    recent_max_count: int = Field(
        default=1000, ge=1, description="behaviors of one user kept beside the snapshot; 22 bytes each"
    )
    future_skew_max_ms: int = Field(
        default=60_000, ge=0, description="how far ahead of this clock an event's time may lie"
    )
    store_timeout_ms: int = Field(
        default=50, ge=1, description="what a request waits for the store, connecting included"
    )
    store_retries_count: int = Field(
        default=1, ge=0, description="retries within store_timeout_ms after a connection broke"
    )
    store_connections_max_count: int = Field(default=32, ge=1, description="connections of one worker")
    store_cache_max_bytes: int = Field(
        default=0,
        ge=0,
        description="what one worker keeps of the store, told by it of every write; 0 asks the store each time",
    )
    breaker_failures_count: int = Field(
        default=5, ge=1, description="failures in a row after which the store is left alone for a while"
    )
    breaker_open_min_ms: int = Field(
        default=500, ge=1, description="how long the store is left alone at first"
    )
    breaker_open_max_ms: int = Field(default=30_000, ge=1, description="and at most, doubling up to it")
    retry_interval_ms: int = Field(
        default=2000,
        ge=10,
        description="between attempts to load artefacts or open the store while they lack",
    )
    keep_alive_timeout_s: int = Field(default=75, ge=1, description="how long an idle connection stays open")
    shutdown_timeout_s: int = Field(default=20, ge=1, description="what requests in flight get at a stop")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least level logged; requests are logged at info"
    )
    log_sample_ratio: float = Field(
        default=0.01, ge=0, le=1, description="share of requests logged; failed and slow ones always are"
    )
    slow_request_ms: int = Field(default=200, ge=1, description="from where on a request is slow")

    def store_settings(self) -> StoreSettings:
        """Return what the store's client is told."""
        return StoreSettings(
            timeout_ms=self.store_timeout_ms,
            retries_count=self.store_retries_count,
            connections_max=self.store_connections_max_count,
            cache_max_bytes=self.store_cache_max_bytes,
        )

    def as_environment(self) -> dict[str, str]:
        """Return these settings as the variables that a worker process reads them from."""
        return {f"{PREFIX}{name.upper()}": str(value) for name, value in self.model_dump().items()}
