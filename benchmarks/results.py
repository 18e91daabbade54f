"""Results files of the benchmarks: `{"meta": {machine, versions, command, date}, "rows": [...]}`."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any


def write_results(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    packages: Sequence[str],
    versions: Mapping[str, str] | None = None,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write rows with what is needed to read them later: machine, versions, command, date.

    `packages` are installed here; `versions` are of what was measured in an environment of its own; `more` stands
    beside the rows.
    """
    spec = sys.modules["__main__"].__spec__
    module = f"benchmarks.{Path(sys.argv[0]).stem}" if spec is None else spec.name.removesuffix(".__main__")
    command = shlex.join(["python", "-m", module, *sys.argv[1:]])
    meta = {
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in packages},
            **(versions or {}),
        },
        "command": command,
        "date": datetime.now(tz=UTC).date().isoformat(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"meta": meta, "rows": list(rows), **(more or {})}, indent=2) + "\n")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())
