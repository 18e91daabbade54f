"""The models of public libraries that are measured, and running one in its library's process."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.environments import REPOSITORY, installed
from benchmarks.public_libraries.environments import LIBRARIES, Library
from benchmarks.public_libraries.exchange import REPORT_FILE, Job, Report

LOG_FILE: Final = "driver.log"


@dataclass(frozen=True)
class System:
    """One model of one library."""

    library: Library
    model: str

    @property
    def name(self) -> str:
        """Its name on the command line and in file names."""
        return f"{self.library.driver}-{self.model}"


SYSTEMS: Final = tuple(
    System(LIBRARIES[library], model)
    for library, models in {
        "fuxictr": ("dcnv2", "din"),
        "torch_rechub": ("dcnv2", "din", "mmoe", "ple"),
        "deepctr_torch": ("dcnv2", "din", "mmoe", "ple"),
    }.items()
    for model in models
)


class DriverError(Exception):
    """A library's process failed."""


def chosen_systems(names: str | None, *, models: tuple[str, ...] = ()) -> tuple[System, ...]:
    """Return the systems named, or all (of some models).

    Raises:
        DriverError: there is no system of a name.
    """
    known = {system.name: system for system in SYSTEMS if not models or system.model in models}
    wanted = list(known) if names is None else names.split(",")
    for name in wanted:
        if name not in known:
            raise DriverError(f"{name!r} is none of {', '.join(known)}")
    return tuple(known[name] for name in wanted)


def run_system(system: System, job: Job, say: Callable[[str], None]) -> Report:
    """Train a system, or return the report of the very same job if it is done; what it printed is in its log.

    Raises:
        DriverError: its library is not installed, or its process failed.
    """
    out = Path(job.out)
    if (out / REPORT_FILE).is_file() and Job.load(out / "job.json") == job:
        say(f"{system.name}: done before")
        return Report.load(out)
    (out / REPORT_FILE).unlink(missing_ok=True)
    if not installed(system.library):
        raise DriverError(
            f"{system.library.distribution} is not installed: python -m benchmarks.public_libraries install"
        )
    path = job.save()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
        "OMP_NUM_THREADS": str(job.threads),
        "MKL_NUM_THREADS": str(job.threads),
        # deepctr-torch asks PyPI for its newest version whenever it is imported; a benchmark talks to nobody
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
    }
    module = f"benchmarks.public_libraries.drivers.{system.library.driver}"
    say(f"{system.name}: training; its output is in {out / LOG_FILE}")
    with (out / LOG_FILE).open("w") as log:
        done = subprocess.run(
            [system.library.python, "-m", module, path.resolve()],
            cwd=REPOSITORY,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        last = "\n".join((out / LOG_FILE).read_text(errors="replace").splitlines()[-15:])
        raise DriverError(f"{system.name} failed with status {done.returncode}:\n{last}")
    return Report.load(out)
