"""The experiment plan: layers that split the users of domains over arms, read from YAML.

Knows nothing of requests, of artefacts or of how a user is hashed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.contract.manifest import Name
from service.errors import StartupError

SHARES_TOLERANCE = 1e-9


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Arm(_Frozen):
    """One side of an experiment: the model that scores for its share of users."""

    name: Name
    model: Name
    share: float = Field(ge=0, le=1)


class Layer(_Frozen):
    """One experiment over the users of some domains. Arms are laid over the hash's range in their order, so
    growing the share of the last arm moves nobody out of it. The salt makes layers independent; changing it
    deals all users anew."""

    name: Name
    salt: str = Field(min_length=1)
    domains: Annotated[tuple[Name, ...], Field(min_length=1)]
    arms: Annotated[tuple[Arm, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        total = sum(arm.share for arm in self.arms)
        if abs(total - 1) > SHARES_TOLERANCE:
            raise ValueError(f"the shares of layer {self.name!r} sum to {total:g}, they must sum to 1")
        _refuse_repeats(f"arms of layer {self.name!r}", (arm.name for arm in self.arms))
        return self


class Plan(_Frozen):
    """All layers, and the model that scores where no layer decides."""

    version: Literal[1]
    default_model: Name
    layers: tuple[Layer, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        _refuse_repeats("layers", (layer.name for layer in self.layers))
        # A model is all that an arm decides so far, and a request is scored by one.
        _refuse_repeats("domains of layers", (domain for layer in self.layers for domain in layer.domains))
        return self

    def layer_of(self, domain: str) -> Layer | None:
        """Return the layer that covers a domain, None where the default model scores."""
        return next((layer for layer in self.layers if domain in layer.domains), None)

    def models(self) -> tuple[str, ...]:
        """Return the names of all models that the plan may route to, each once."""
        arms = (arm.model for layer in self.layers for arm in layer.arms)
        return tuple(dict.fromkeys((self.default_model, *arms)))


def read_plan(path: Path) -> Plan:
    """Read an experiment plan.

    Raises:
        StartupError: the file is not there, no YAML, or no plan; the message says where.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise StartupError(
            f"experiments file {path} cannot be read: set TWINSTAR_EXPERIMENTS_FILE"
        ) from error
    except yaml.YAMLError as error:
        raise StartupError(f"experiments file {path} is no YAML: {str(error).splitlines()[0]}") from error
    try:
        return Plan.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise StartupError(f"experiments file {path}: {where}: {first['msg']}") from error


def _refuse_repeats(what: str, names: Iterable[str]) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f"{what}: {', '.join(repeated)} occurs more than once")
