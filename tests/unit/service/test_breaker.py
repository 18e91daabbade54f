"""The breaker: opens after failures in a row, lets one try now and then, closes on a success."""

from __future__ import annotations

from service.breaker import Breaker


class Clock:
    def __init__(self) -> None:
        self.s = 0.0

    def now_ms(self) -> int:
        raise AssertionError("a breaker has no use for the wall clock")

    def monotonic_s(self) -> float:
        return self.s


def make() -> tuple[Breaker, Clock]:
    clock = Clock()
    return Breaker(clock, failures_count=3, open_min_ms=1000, open_max_ms=4000), clock


def opened() -> tuple[Breaker, Clock]:
    breaker, clock = make()
    for _ in range(3):
        breaker.failed()
    return breaker, clock


def test_failures_that_are_not_in_a_row_leave_it_closed() -> None:
    breaker, _ = make()
    for _ in range(10):
        breaker.failed()
        breaker.failed()
        breaker.succeeded()
    assert not breaker.is_open
    assert breaker.allows()


def test_failures_in_a_row_open_it() -> None:
    breaker, _ = opened()
    assert breaker.is_open
    assert not breaker.allows()


def test_after_its_time_one_caller_may_try_and_a_success_closes_it() -> None:
    breaker, clock = opened()
    clock.s = 0.999
    assert not breaker.allows()
    clock.s = 1.0
    assert [breaker.allows() for _ in range(3)] == [True, False, False]
    breaker.succeeded()
    assert breaker.allows()
    assert not breaker.is_open


def test_each_failed_try_doubles_its_time_up_to_the_most() -> None:
    breaker, clock = opened()
    for wait_s in (1, 2, 4, 4, 4):
        clock.s += wait_s - 0.001
        assert not breaker.allows()
        clock.s += 0.001
        assert breaker.allows()
        breaker.failed()


def test_late_failures_of_calls_begun_before_it_opened_do_not_lengthen_it() -> None:
    breaker, clock = opened()
    for _ in range(50):
        breaker.failed()
    clock.s = 1.0
    assert breaker.allows()


def test_a_try_that_never_ends_lets_another_one_through_later() -> None:
    breaker, clock = opened()
    clock.s = 1.0
    assert breaker.allows()
    clock.s = 2.0
    assert breaker.allows()


def test_after_closing_it_starts_over_with_the_least_time() -> None:
    breaker, clock = opened()
    clock.s = 1.0
    assert breaker.allows()
    breaker.failed()
    clock.s = 3.0
    assert breaker.allows()
    breaker.succeeded()
    for _ in range(3):
        breaker.failed()
    clock.s = 3.999
    assert not breaker.allows()
    clock.s = 4.0
    assert breaker.allows()
