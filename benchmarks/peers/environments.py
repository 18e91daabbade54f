"""The peers: the version that is measured of each, its environment, and how a request is put to it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal

from benchmarks.environments import ENVIRONMENTS, REPOSITORY
from benchmarks.plain_handler import REQUIREMENTS

PINNED: Final = frozenset({"hiredis", "msgspec", "onnxruntime", "pydantic", "redis"})
"""What every environment has in the version that we run. numpy is not among them: PyTriton reads 1 only."""

TensorsForm = Literal["binary", "base64"]


@dataclass(frozen=True)
class Peer:
    """A public model server.

    tensors: how it takes ready tensors: `binary` where it hands a body on as it is, `base64` where it reads JSON.
    wrapped: whether its only endpoint is that of the Open Inference Protocol, so that a body is sent as a tensor.
    """

    name: str
    distribution: str
    version: str
    extras: str = ""
    interpreter: str | None = None
    tensors: TensorsForm = "binary"
    wrapped: bool = False

    @property
    def folder(self) -> Path:
        """Where its environment lies."""
        return ENVIRONMENTS / "peers" / self.name

    @property
    def requirements(self) -> tuple[str, ...]:
        """What its environment is made of."""
        own = f"{self.distribution}{self.extras}=={self.version}"
        return (own, *(f"{name}=={version(name)}" if name in PINNED else name for name in REQUIREMENTS))

    @property
    def tensors_path(self) -> str:
        """Where it takes ready tensors: an API of BentoML has one type."""
        return "/tensors" if self.name == "bentoml" else "/score"

    @property
    def command(self) -> list[str]:
        """Arguments of its Python that start it."""
        return ["-m", f"benchmarks.peers.{self.name}"]

    @property
    def environment(self) -> dict[str, str]:
        """Variables that it is started with, besides those of the plain handler."""
        return {"PYTHONPATH": str(REPOSITORY)}


PEERS: Final = {
    peer.name: peer
    for peer in (
        Peer("mlserver", "mlserver", "1.7.1"),
        Peer("bentoml", "bentoml", "1.4.39", tensors="base64"),
        Peer("litserve", "litserve", "0.2.19", tensors="base64"),
        Peer("ray_serve", "ray", "2.60.0", extras="[serve]"),
        Peer("mosec", "mosec", "0.9.8"),
        # Its Triton is linked against one libpython, which is Debian's.
        Peer(
            "pytriton",
            "nvidia-pytriton",
            "0.7.0",
            interpreter="/usr/bin/python3.11" if sys.platform == "linux" else None,
            wrapped=True,
        ),
    )
}
