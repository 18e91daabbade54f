from __future__ import annotations

import os
import textwrap
import time

import pytest

from benchmarks.servers import ServerError, cpu_s_of, descendants, parent_of, parents, running

SERVER = """
    import subprocess, sys
    from http.server import BaseHTTPRequestHandler, HTTPServer

    child = subprocess.Popen([sys.executable, "-c", "sum(range(3_000_000)); import time; time.sleep(600)"])

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            body = str(child.pid).encode()
            self.send_response(200 if self.path == "/readyz" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

    HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Answer).serve_forever()
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "server.py"
    path.write_text(textwrap.dedent(SERVER))
    return path


def test_the_parent_is_read_whatever_the_process_is_called():
    assert parent_of("4711 (a) b (c)) S 42 4711 4711 0 -1 4194304") == 42


@pytest.mark.parametrize("state", "ZX")
def test_a_process_that_has_ended_has_no_parent(state):
    assert parent_of(f"4711 (a) {state} 42 4711 4711 0 -1 4194304") is None


def test_descendants_are_children_and_their_children():
    parent = {1: 0, 2: 1, 3: 1, 4: 3, 5: 4, 6: 2, 7: 0, 8: 7}

    assert sorted(descendants(3, parent)) == [3, 4, 5]
    assert sorted(descendants(1, parent)) == [1, 2, 3, 4, 5, 6]
    assert descendants(99, parent) == []


def test_cpu_time_is_that_of_the_process_and_of_none_that_has_ended():
    before_s = cpu_s_of(os.getpid())
    ends_s = time.process_time() + 0.02
    while time.process_time() < ends_s:
        pass

    assert cpu_s_of(os.getpid()) - before_s >= 0.02
    assert cpu_s_of(2**22 + 1) == 0


def test_a_server_is_all_that_it_has_started_and_nothing_of_it_is_left(tmp_path, script):
    with running("one", [str(script)], {}, cores=None, log=tmp_path / "log") as server:
        child = int(server._ask("GET", "/readyz", b"", {})[1])
        assert child in server._processes()
        assert server.cpu_s() >= cpu_s_of(child)

    assert child not in parents()


def test_an_answer_that_is_no_200_is_an_error_with_the_servers_name(tmp_path, script):
    with (
        running("one", [str(script)], {}, cores=None, log=tmp_path / "log") as server,
        pytest.raises(ServerError, match="one: POST /else answered 404"),
    ):
        server.post("/else", b"{}", {})


def test_a_server_that_ends_is_an_error_with_its_last_words(tmp_path):
    script = tmp_path / "server.py"
    script.write_text("raise SystemExit('no such model')")

    with (
        pytest.raises(ServerError, match="no such model"),
        running("one", [str(script)], {}, cores=None, log=tmp_path / "log"),
    ):
        pass
