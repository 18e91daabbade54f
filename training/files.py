"""What a stage reads and writes, as far as it takes to see that it changed. Knows nothing of stages."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from service.contract.files import sha256_of


def state_of_logs(path: object, *, without: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Return names, sizes in bytes and times in nanoseconds of a source's own files, sorted.

    `path` is what the source was told: a folder, a file of one, or none. What is hidden, or lies in a folder
    of `without`, is no log.
    """
    if not isinstance(path, str):
        return []
    root = Path(path) if Path(path).is_dir() else Path(path).parent
    left_out = {folder.resolve() for folder in without}
    found: list[tuple[str, int, int]] = []
    for folder, folders, files in os.walk(root):
        here = Path(folder)
        folders[:] = [f for f in folders if not f.startswith(".") and (here / f).resolve() not in left_out]
        for name in files:
            if not name.startswith(".") and (here / name).is_file():
                state = (here / name).stat()
                found.append(((here / name).relative_to(root).as_posix(), state.st_size, state.st_mtime_ns))
    return sorted(found)


def sizes_bytes(folder: Path, *, without: str) -> dict[str, int]:
    """Return the size of every file under a folder but one."""
    files = (p for p in folder.rglob("*") if p.is_file() and p != folder / without)
    return {p.relative_to(folder).as_posix(): p.stat().st_size for p in sorted(files)}


def output_id(folder: Path) -> str:
    """Return an id of the content of all files under a folder: equal content has equal ids."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{sha256_of(path)}\n".encode())
    return digest.hexdigest()[:32]
