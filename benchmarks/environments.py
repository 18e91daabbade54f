"""Python environments of their own for what is measured beside us. Knows nothing of what is in them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final, Protocol

REPOSITORY: Final = Path(__file__).resolve().parents[1]
ENVIRONMENTS: Final = REPOSITORY / ".rivals"


class Environment(Protocol):
    """Where an environment lies, what it is made of, and by which Python (None: the one that runs this)."""

    @property
    def folder(self) -> Path: ...

    @property
    def requirements(self) -> tuple[str, ...]: ...

    @property
    def interpreter(self) -> str | None: ...


def python_of(environment: Environment) -> Path:
    """Return the interpreter of an environment."""
    return environment.folder / "bin" / "python"


def installed(environment: Environment) -> bool:
    """Return whether an environment was made, whole."""
    receipt = _receipt(environment)
    return receipt.is_file() and receipt.read_text() == "\n".join(environment.requirements)


def install(environment: Environment) -> None:
    """Make an environment, once.

    Raises:
        subprocess.CalledProcessError: pip could not install it; what pip said stands on stderr.
        OSError: its Python is not there.
    """
    if installed(environment):
        return
    interpreter = environment.interpreter or sys.executable
    for command in (
        [interpreter, "-m", "venv", str(environment.folder)],
        [str(python_of(environment)), "-m", "pip", "install", "--quiet", *environment.requirements],
    ):
        subprocess.run(command, check=True, stdout=sys.stderr)
    _receipt(environment).write_text("\n".join(environment.requirements))


def _receipt(environment: Environment) -> Path:
    """Written last, so that an installation that broke off is no environment."""
    return environment.folder / "installed.txt"
