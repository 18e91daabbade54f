"""prepare: raw logs to the canonical dataset, by the source that the config names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from training.data import canonical
from training.errors import ConfigError
from training.plugins import load_plugin
from training.progress import Progress

SOURCES = "training.data.sources"


def run(dataset: Mapping[str, Any], out: Path, *, progress: Progress | None = None) -> dict[str, int]:
    """Write the dataset that the section `dataset` of a config describes; returns its counts.

    `dataset` is `{source: <name>, <the source's options>}`. `out` is replaced as a whole, or left as it is.

    Raises:
        ConfigError: there is no such source or option.
        DataError: the data are not as they must be.
    """
    name = str(dataset.get("source", ""))
    options = {key: value for key, value in dataset.items() if key != "source"}
    return prepare(name, options, out, progress=progress or Progress(stage="prepare", quiet=True))


def prepare(source: str, options: Mapping[str, Any], out: Path, *, progress: Progress) -> dict[str, int]:
    """Write the dataset of a source; see `run`."""
    plugin = load_plugin(SOURCES, source)
    try:
        chosen: BaseModel = plugin.Options.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"dataset.{where}: {first['msg']} (source {source})") from error
    steps = (*plugin.STEPS, *canonical.STEPS)
    with progress.task(source, total=len(steps)) as advance:

        def begin(step: str) -> None:
            advance(1 if step != steps[0] else 0)

        raw = plugin.build(chosen, progress=begin)
        spec = canonical.write_dataset(raw, out, progress=begin)
        advance(1)
    named = ("exposures", "requests", "behaviors", "users", "items", "rows_set_aside")
    progress.say(", ".join(f"{spec.counts[count]:,} {count.replace('_', ' ')}" for count in named))
    return spec.counts
