from __future__ import annotations

import ast
from pathlib import Path

import pytest

from benchmarks import peers
from benchmarks.comparison import Comparison, Options, Point
from benchmarks.environments import install, installed
from benchmarks.measure import Measurements
from benchmarks.peers.environments import PEERS, Peer
from benchmarks.plain_handler import SERVED, TRAINING
from benchmarks.runs import measure_peer
from benchmarks.systems import OURS, PLAIN, of_peer, ours, plain, store_running

FOLDER = Path(peers.__file__).parent


def test_every_peer_is_a_file_of_its_name_and_of_a_stated_version():
    files = {path.stem for path in FOLDER.glob("*.py")} - {"__init__", "__main__", "environments"}

    assert files == set(PEERS)
    for name, peer in PEERS.items():
        assert peer.requirements[0].endswith(f"=={peer.version}")
        ast.parse((FOLDER / f"{name}.py").read_text())


def test_an_environment_that_broke_off_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.peers.environments.ENVIRONMENTS", tmp_path)
    peer = Peer("one", "one", "1")
    (peer.folder / "bin").mkdir(parents=True)

    assert not installed(peer)
    (peer.folder / "installed.txt").write_text("another==2")
    assert not installed(peer)
    (peer.folder / "installed.txt").write_text("\n".join(peer.requirements))
    assert installed(peer)


def test_an_environment_of_a_python_that_is_not_there_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.peers.environments.ENVIRONMENTS", tmp_path)
    peer = Peer("one", "one", "1", interpreter=str(tmp_path / "no-python"))

    with pytest.raises(OSError):
        install(peer)

    assert not installed(peer)


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
def test_a_peer_gives_our_probabilities_to_ids_and_ready_tensors_and_is_measured(
    name, reference, subject, tmp_path
):
    if not installed(PEERS[name]):
        pytest.skip(f"{name} is not installed: python -m benchmarks.peers install {name}")
    bench = Comparison(subject, tmp_path, Options(1, 0.1, 0.1), Measurements(None, None))
    point = Point(20, 200.0, reference.workload(n=20, c=200, asks_count=6))
    with (
        store_running(reference.store, None),
        bench.servers([ours(subject), plain(subject, SERVED)], point.workload) as up,
    ):
        measure_peer(bench, up, PEERS[name], [point])

    own = of_peer(subject, PEERS[name]).name
    found = {(s.cell.system, s.cell.input, s.cell.loop, s.cell.connections) for s in bench.taken.samples}
    closed = {(system, "ids", "closed", n) for system in (OURS, PLAIN[SERVED], own) for n in (1, 8)}
    assert found == closed | {
        (own, "tensors", "closed", 1),
        (name, "tensors", "closed", 1),
        (own, "ids", "open", 32),
    }
    assert TRAINING not in own
