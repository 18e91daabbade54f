"""A virtual environment for each public library, with the torch that we use. Knows nothing of models."""

from __future__ import annotations

import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parents[2]
ENVIRONMENTS: Final = REPOSITORY / ".rivals"
TORCH: Final = "torch==2.13.0"


@dataclass(frozen=True)
class Library:
    """A public library: its distribution's name, the version measured, and what it needs but does not ask for."""

    distribution: str
    version: str
    undeclared: tuple[str, ...] = ()

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
        return self.folder / "bin" / "python"

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


def installed(library: Library) -> bool:
    """Return whether a library's environment was made, whole."""
    return _receipt(library).is_file() and _receipt(library).read_text() == "\n".join(library.requirements)


def install(library: Library) -> None:
    """Make a library's environment, once.

    Raises:
        subprocess.CalledProcessError: pip could not install it; what pip said stands on stderr.
    """
    if installed(library):
        return
    venv.create(library.folder, with_pip=True)
    command = [str(library.python), "-m", "pip", "install", "--quiet", *library.requirements]
    subprocess.run(command, check=True, stdout=sys.stderr)
    _receipt(library).write_text("\n".join(library.requirements))


def _receipt(library: Library) -> Path:
    """Written last, so that an installation that broke off is no environment."""
    return library.folder / "installed.txt"
