from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from training.config import ModelConfig
from training.study.config import StudyConfig
from training.study.display import Display, Running, expected_rest_s
from training.study.fitting import FitPlan
from training.study.schedule import Outcome, in_order, run_fits

MODEL = ModelConfig.model_validate({"backbone": "star"})


def plans(folder: Path, *names: str) -> list[FitPlan]:
    return [FitPlan(name, 1, MODEL, False, folder / name) for name in names]


def run(
    work: Callable[[FitPlan, Callable[[float], None]], None],
    chosen: list[FitPlan],
    *,
    processes: int = 2,
    budget_s: float = 3600,
    clock: Callable[[], float] | None = None,
) -> Outcome:
    display = Display(total=len(chosen), known_s={}, processes=processes)
    more = {} if clock is None else {"clock": clock}
    return run_fits(chosen, work, processes=processes, budget_s=budget_s, display=display, **more)


def touch(plan: FitPlan, tell: Callable[[float], None]) -> None:
    tell(0.5)
    plan.folder.write_text(str(os.getpid()))


def study(rows: dict[str, tuple[int, ...]]) -> StudyConfig:
    first = next(iter(rows))
    content = {name: {"label": name, "group": "g", "seeds": seeds} for name, seeds in rows.items()}
    model = MODEL.model_dump(mode="json")
    return StudyConfig.model_validate(
        {"pipeline": "p.yaml", "budget_hours": 1, "base": model, "reference": first, "rows": content}
    )


def test_every_fit_has_a_process_of_its_own(tmp_path: Path) -> None:
    chosen = plans(tmp_path, "a", "b", "c")
    outcome = run(touch, chosen)
    ids = {plan.folder.read_text() for plan in chosen}
    assert len(ids) == 3
    assert str(os.getpid()) not in ids
    assert set(outcome.seconds) == {"a/1", "b/1", "c/1"}
    assert (outcome.failed, outcome.not_started) == ({}, ())


def test_a_fit_that_fails_is_told_and_ends_no_other(tmp_path: Path) -> None:
    def work(plan: FitPlan, tell: Callable[[float], None]) -> None:
        if plan.row == "b":
            raise ValueError("no such thing")
        touch(plan, tell)

    outcome = run(work, plans(tmp_path, "a", "b", "c"), processes=1)
    assert set(outcome.seconds) == {"a/1", "c/1"}
    assert list(outcome.failed) == ["b/1"]
    assert outcome.failed["b/1"].strip().endswith("ValueError: no such thing")


def test_a_fit_that_is_killed_is_told_with_its_exit_code(tmp_path: Path) -> None:
    def work(plan: FitPlan, tell: Callable[[float], None]) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    assert "exit code -9" in run(work, plans(tmp_path, "a")).failed["a/1"]


def test_none_is_started_once_the_budget_is_spent(tmp_path: Path) -> None:
    hours = iter(range(100))
    outcome = run(touch, plans(tmp_path, "a", "b", "c"), processes=1, budget_s=2, clock=lambda: next(hours))
    assert list(outcome.seconds) == ["a/1"]  # it ran past the budget and was waited for
    assert outcome.not_started == ("b/1", "c/1")


def test_without_budget_none_is_started(tmp_path: Path) -> None:
    outcome = run(touch, plans(tmp_path, "a"), budget_s=0)
    assert (outcome.seconds, outcome.not_started) == ({}, ("a/1",))


def test_headline_rows_come_first_and_other_seeds_last() -> None:
    config = study({"a": (1,), "b": (1, 2, 3), "c": (4,), "d": (7, 8)})
    assert in_order(config, config.rows) == (
        ("b", 1), ("d", 7), ("a", 1), ("c", 4), ("b", 2), ("b", 3), ("d", 8),
    )  # fmt: skip
    assert in_order(config, ["c", "d"]) == (("d", 7), ("c", 4), ("d", 8))


def test_the_rest_is_that_of_the_same_row_else_the_mean() -> None:
    known = {"slow/1": 100.0, "fast/1": 20.0}
    assert expected_rest_s([], ["slow/2", "new/1"], known_s=known, processes=1) == pytest.approx(160)
    assert expected_rest_s([], ["slow/2", "new/1"], known_s=known, processes=2) == pytest.approx(80)
    assert expected_rest_s([], ["new/1"], known_s={}, processes=1) is None


def test_a_running_fit_takes_as_long_as_its_share_says() -> None:
    half = Running("slow/2", 0.5, 30.0)
    begun = Running("slow/2", 0.0, 30.0)
    assert expected_rest_s([half], [], known_s={"slow/1": 100.0}, processes=1) == pytest.approx(30)
    assert expected_rest_s([begun], [], known_s={"slow/1": 100.0}, processes=1) == pytest.approx(70)


def test_finished_fits_are_lines_where_nobody_looks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(touch, plans(tmp_path, "a"))
    told = capsys.readouterr()
    assert told.out == ""
    assert "[1/1] a/1:" in told.err


def test_fits_end_with_the_run_that_started_them(tmp_path: Path) -> None:
    def work(plan: FitPlan, tell: Callable[[float], None]) -> None:
        plan.folder.write_text(str(os.getpid()))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)  # no test waits longer, whatever happens
        signal.pause()

    class Interrupted(Display):
        def tick(self, running: Sequence[Running], *, waiting: Sequence[str], left_s: float) -> None:
            if all((tmp_path / name).is_file() for name in ("a", "b")):
                raise KeyboardInterrupt

    display = Interrupted(total=2, known_s={}, processes=2)
    with pytest.raises(KeyboardInterrupt):
        run_fits(plans(tmp_path, "a", "b"), work, processes=2, budget_s=60, display=display)
    for name in ("a", "b"):
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / name).read_text()), 0)
