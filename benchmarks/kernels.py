"""What ONNX Runtime's profiler tells of the operators that a session ran."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnxruntime as ort

KERNEL_TIME = "_kernel_time"


def profiled_options(folder: Path) -> ort.SessionOptions:
    """Return the options of a session with one thread that is profiled; what is written for that lies in a folder."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    return options


def kernels_of(session: ort.InferenceSession) -> list[tuple[str, dict[str, Any]]]:
    """Return the node and the event (`dur` in microseconds, `args`) of every operator that was run; ends profiling."""
    events = json.loads(Path(session.end_profiling()).read_text())
    return [
        (event["name"].removesuffix(KERNEL_TIME), event)
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith(KERNEL_TIME)
    ]
