"""A virtual environment for each public library, with the torch that we use. Knows nothing of models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.environments import ENVIRONMENTS, python_of

TORCH: Final = "torch==2.13.0"


@dataclass(frozen=True)
class Library:
    """A public library: its distribution's name, the version measured, and what it needs but does not ask for."""

    distribution: str
    version: str
    undeclared: tuple[str, ...] = ()
    interpreter: str | None = None

    @property
    def driver(self) -> str:
        """The name of its driver module, and of the library in results."""
        return self.distribution.replace("-", "_")

    @property
    def folder(self) -> Path:
        """Where its environment lies."""
        return ENVIRONMENTS / self.distribution

    @property
    def python(self) -> Path:
        """The interpreter of its environment."""
        return python_of(self)

    @property
    def requirements(self) -> tuple[str, ...]:
        """What its environment is made of."""
        return (TORCH, f"{self.distribution}=={self.version}", *self.undeclared)


LIBRARIES: Final = {
    library.driver: library
    for library in (
        Library("fuxictr", "2.3.10"),
        Library("torch-rechub", "0.9.0"),
        Library("deepctr-torch", "0.3.0", undeclared=("requests",)),  # it imports what it does not declare
    )
}
