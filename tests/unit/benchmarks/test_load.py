from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.load import (
    Arrivals,
    LoadError,
    answer_length,
    http_request,
    read_requests,
    run_closed,
    run_open,
    write_requests,
)


class Echo(BaseHTTPRequestHandler):
    """Answers with the body that it was sent; /broken answers 500."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append(body)
        if self.server.hold:
            self.server.hold.wait()
        self.send_response(500 if self.path == "/broken" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as running:
        running.seen, running.hold = [], None
        running.daemon_threads = True
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def requests(*bodies, path="/"):
    return [http_request("POST", path, body=body) for body in bodies]


def test_a_request_states_its_length_in_bytes():
    request = http_request("POST", "/score", headers=[("X-Domain", "both")], body="{é}".encode())

    assert request.decode() == (
        "POST /score HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Domain: both\r\n"
        "Content-Type: application/json\r\nContent-Length: 4\r\n\r\n{é}"
    )


def test_the_length_of_an_answer_is_unknown_until_its_head_is_whole():
    whole = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n"

    assert [answer_length(whole[:i]) for i in range(len(whole))] == [None] * len(whole)
    assert answer_length(whole + b"ab") == len(whole) + 3


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"]
)
def test_an_answer_that_is_no_200_or_has_no_length_is_refused(head):
    with pytest.raises(LoadError):
        answer_length(head)


def test_requests_are_asked_in_turn_until_there_were_enough(server):
    load = run_closed(server.server_port, requests(b"a", b"b"), connections=3, seconds=60, requests_max=7)

    assert len(load.latencies_ms) == 7
    assert sorted(server.seen) == [b"a"] * 4 + [b"b"] * 3
    assert all(0 < latency_ms <= load.wall_s * 1000 for latency_ms in load.latencies_ms)


def test_when_the_time_is_up_what_is_out_is_still_counted(server):
    load = run_closed(server.server_port, requests(b"a"), connections=4, seconds=0, requests_max=100)

    assert len(load.latencies_ms) == len(server.seen) == 4


def test_answers_of_several_reads_are_put_together(server):
    body = b"x" * 3_000_000

    load = run_closed(server.server_port, requests(body), connections=1, seconds=60, requests_max=2)

    assert len(load.latencies_ms) == 2


def test_an_answer_without_what_is_expected_ends_the_run(server):
    with pytest.raises(LoadError, match="without"):
        run_closed(server.server_port, requests(b"a"), connections=1, seconds=60, requests_max=1, expect=b"z")


def test_an_error_ends_the_run(server):
    with pytest.raises(LoadError, match="500"):
        run_closed(
            server.server_port, requests(b"a", path="/broken"), connections=1, seconds=60, requests_max=1
        )


def test_an_answer_in_chunks_is_whole_with_its_last_chunk():
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    whole = head + b"2\r\nab\r\n" + b"0\r\n\r\n"

    assert answer_length(head) is None
    assert answer_length(whole[:-5]) is None
    assert answer_length(whole) == len(whole)


def test_requests_are_read_as_they_were_written(tmp_path):
    written = [b"", bytes(range(256)), b"\n" * 9]
    write_requests(tmp_path / "requests", written)

    assert read_requests(tmp_path / "requests") == written


def test_requests_are_due_at_a_constant_rate():
    arrivals = Arrivals(rate_rps=10, seconds=0.5)

    assert arrivals.count == 5
    assert list(arrivals.due_s(0.0)) == [0.0]
    assert arrivals.next_s() == pytest.approx(0.1)
    assert list(arrivals.due_s(0.09)) == []
    assert list(arrivals.due_s(0.1)) == pytest.approx([0.1])


def test_after_a_stall_requests_are_due_when_they_were_meant_to_be_asked():
    arrivals = Arrivals(rate_rps=10, seconds=1)
    list(arrivals.due_s(0.0))

    assert list(arrivals.due_s(0.75)) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    assert list(arrivals.due_s(9)) == pytest.approx([0.8, 0.9])
    assert arrivals.next_s() is None


def test_an_open_loop_asks_as_often_as_the_rate_says(server):
    load = run_open(server.server_port, requests(b"a", b"b"), rate_rps=1000, connections=3, seconds=0.02)

    assert len(load.latencies_ms) == 20
    assert sorted(server.seen) == [b"a"] * 10 + [b"b"] * 10


def test_in_an_open_loop_a_request_that_waits_for_a_connection_is_charged_for_the_wait(server):
    release = threading.Event()
    server.hold = release
    timer = threading.Timer(0.2, release.set)
    timer.start()

    load = run_open(server.server_port, requests(b"a"), rate_rps=1000, connections=1, seconds=0.01)
    timer.join()

    # All ten were due within 10 ms and were answered after the server was let go, 200 ms after it was asked.
    assert len(load.latencies_ms) == 10
    assert min(load.latencies_ms) > 150


def test_an_open_loop_ends_at_an_error(server):
    with pytest.raises(LoadError, match="500"):
        run_open(server.server_port, requests(b"a", path="/broken"), rate_rps=100, connections=1, seconds=0.1)
