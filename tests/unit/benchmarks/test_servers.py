from __future__ import annotations

from benchmarks.servers import cpu_s_of


def test_cpu_time_is_user_and_system_time_whatever_the_process_is_called():
    fields = ["S", *(str(i) for i in range(4, 14)), "250", "150", *(str(i) for i in range(16, 53))]

    assert cpu_s_of(f"4711 (a) b (c)) {' '.join(fields)}", ticks_per_s=100) == 4.0
