"""What a person, or a machine, sees while the study runs. Knows nothing of processes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from tqdm import tqdm


@dataclass(frozen=True)
class Running:
    """A fit that runs: the share of it that is done, and since how many seconds."""

    name: str
    share_done: float
    seconds: float


def expected_rest_s(
    running: Sequence[Running], waiting: Sequence[str], *, known_s: dict[str, float], processes: int
) -> float | None:
    """Return how long the fits that are not done will take, None where nothing is known yet.

    A fit takes as long as the same row's others did, else as the mean of all that are known.
    """
    if not known_s:
        return None
    mean_s = sum(known_s.values()) / len(known_s)
    by_row: dict[str, list[float]] = {}
    for name, seconds in known_s.items():
        by_row.setdefault(name.rpartition("/")[0], []).append(seconds)

    def expected(name: str) -> float:
        own = by_row.get(name.rpartition("/")[0])
        return sum(own) / len(own) if own else mean_s

    rest = sum(expected(name) for name in waiting)
    for fit in running:
        if fit.share_done > 0.05:
            rest += fit.seconds / fit.share_done - fit.seconds
        else:
            rest += max(0.0, expected(fit.name) - fit.seconds)
    return rest / processes


class Display:
    """Fits done of all, elapsed and expected time, and the budget: a bar, lines where nobody looks, or JSON."""

    def __init__(self, *, total: int, known_s: dict[str, float], processes: int, json: bool = False) -> None:
        self._known_s, self._processes, self._json = dict(known_s), processes, json
        self._done, self._total = 0, total
        self._rest = "rest unknown"
        self._bar = tqdm(
            total=total,
            desc="  study",
            unit="fit",
            disable=json or not sys.stderr.isatty(),
            leave=False,
            file=sys.stderr,
            bar_format="{desc} {n_fmt}/{total_fmt} fits |{bar}| {elapsed}{postfix}",
        )

    def up_to_date(self, names: Sequence[str]) -> None:
        """Tell of fits that were finished before."""
        self._done += len(names)
        self._bar.update(len(names))
        if names:
            self._say({"up_to_date": list(names)}, f"{len(names)} of {self._total} fits are up to date")

    def finished(self, name: str, failure: str | None, seconds: float) -> None:
        """Tell of a fit that ended."""
        self._done += 1
        self._bar.update(1)
        if failure is None:
            self._known_s[name] = seconds
            line = f"[{self._done}/{self._total}] {name}: {seconds:,.0f} s, {self._rest}"
        else:
            reason = failure.strip().splitlines()[-1]
            line = f"[{self._done}/{self._total}] {name} failed after {seconds:,.0f} s: {reason}"
        self._say({"fit": name, "failure": failure, "seconds": round(seconds, 2)}, line)

    def tick(self, running: Sequence[Running], *, waiting: Sequence[str], left_s: float) -> None:
        """Tell how far the fits are that run, when all will be done, and how much of the budget is left."""
        rest_s = expected_rest_s(running, waiting, known_s=self._known_s, processes=self._processes)
        shares = "  ".join(f"{fit.name} {fit.share_done:.0%}" for fit in running)
        rest = "unknown" if rest_s is None else _time(rest_s)
        self._rest = f"rest {rest}, budget left {_time(left_s)}"
        self._bar.set_postfix_str(f"{self._rest}  {shares}")

    def say(self, line: str) -> None:
        """Tell something else."""
        self._say({"note": line}, line)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()

    def _say(self, record: dict[str, Any], line: str) -> None:
        if self._json:
            sys.stdout.write(orjson.dumps(record).decode() + "\n")
            sys.stdout.flush()
        else:
            tqdm.write(f"  study: {line}", file=sys.stderr)


def _time(seconds: float) -> str:
    minutes = max(0, round(seconds / 60))
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
