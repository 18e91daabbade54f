"""`twinstar-score` gives the probabilities of POST /score, bit by bit, or tells the row that is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.errors import InputFileError, NotReady, StartupError
from service.score_file import parquet
from service.score_file.__main__ import read_settings
from service.score_file.job import score_file
from service.stores.base import StoreUnavailable
from tests.integration.service.conftest import World
from tests.support.known_artefact import AT_MS
from tests.support.known_registry import CATALOGUE_ITEMS, DOMAINS, USERS

pytestmark = pytest.mark.anyio

HOUR_MS = 3_600_000
Row = dict[str, Any]


def rows_of_requests() -> list[Row]:
    """Return requests of all users and domains, of 1 to 7 candidates, some unknown or with a place, with labels."""
    rng = np.random.default_rng(5)
    items, rows = [*CATALOGUE_ITEMS, "not listed"], []
    for number, user in enumerate(USERS * 3):
        request = {
            "request_id": f"r{number}",
            "user_id": user,
            "domain": DOMAINS[number // 2 % 3],
            "at_ms": AT_MS + HOUR_MS * (number % 5),
            "store_id": [7, 8, None][number % 3],
        }
        for candidate in range(1 + number % 7):
            place = [None, "A", "B", "elsewhere"][(number + candidate) % 4]
            rows.append(
                {
                    **request,
                    "item_id": items[rng.integers(len(items))],
                    "location": place,
                    "click": candidate % 2,
                }
            )
    return rows


async def asked_over_http(world: World, rows: list[Row]) -> list[tuple[bytes, bytes, str]]:
    """Return the bytes of click and multi of each row, and its model, as POST /score gives them."""
    out: list[tuple[bytes, bytes, str]] = []
    for request_id in dict.fromkeys(row["request_id"] for row in rows):
        own = [row for row in rows if row["request_id"] == request_id]
        body = {
            "user_id": own[0]["user_id"],
            "at_ms": own[0]["at_ms"],
            "context": {"store_id": own[0]["store_id"]},
            "candidates": [
                {"item_id": row["item_id"], "context": {"location": row["location"]}} for row in own
            ],
        }
        headers = {
            "X-Domain": own[0]["domain"],
            "Content-Type": "application/msgpack",
            "Accept": "application/msgpack",
        }
        response = await world.client.post("/score", content=msgspec.msgpack.encode(body), headers=headers)
        assert response.status_code == 200, response.text
        answer = msgspec.msgpack.decode(response.content)
        label = f"{answer['model']['name']}-{answer['model']['version']}"
        click, multi = answer["results"]["click"], answer["results"]["multi"]
        out += [(click[i : i + 4], multi[i : i + 4], label) for i in range(0, len(click), 4)]
    return out


def arguments_of(world: World, source: Path, target: Path, *more: str) -> list[str]:
    """Return a command line over a world's registry and store."""
    return [
        str(source),
        str(target),
        "--registry",
        str(world.registry.folder),
        "--experiments-file",
        str(world.registry.plan_file),
        "--store-url",
        f"embedded://{source.parent}/store",
        "--store-timeout-ms",
        "20000",
        *more,
    ]


def bits(table: pa.Table) -> list[tuple[bytes, bytes, str]]:
    """Return what `asked_over_http` gives, of a file that was written."""
    columns = [table.column(f"probability_{task}").to_numpy() for task in ("click", "multi")]
    assert [column.dtype for column in columns] == [np.float32, np.float32]
    models = table.column("model").to_pylist()
    return [(a.tobytes(), b.tobytes(), model) for a, b, model in zip(*columns, models, strict=True)]


@pytest.mark.parametrize("part_rows", [3, 10, 65_536])
async def test_probabilities_are_those_of_score_bit_by_bit(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part_rows: int
) -> None:
    monkeypatch.setattr(parquet, "PART_ROWS", part_rows)
    rows = rows_of_requests()
    source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
    given = pa.Table.from_pylist(rows)
    pq.write_table(given, source, row_group_size=16)
    summary = await score_file(read_settings(arguments_of(world, source, target)))
    written = pq.read_table(target)
    assert bits(written) == await asked_over_http(world, rows)
    assert written.select(given.column_names).equals(given)
    assert written.column("degraded").to_pylist() == [[]] * len(rows)
    assert (summary["rows"], summary["requests"], summary["degraded"]) == (len(rows), len(USERS) * 3, {})
    assert len(summary["models"]) == 2
    assert sum(summary["models"].values()) == len(rows)
    assert 0 < summary["unknown_items"] < len(rows)
    assert summary["features_without_column"] == []


async def test_a_long_request_is_scored_in_parts_to_the_same_probabilities(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "PART_ROWS", 5)
    rows = [
        {"request_id": 1, "user_id": "u3", "domain": "mailer", "at_ms": AT_MS, "store_id": 7, "location": "A"}
        | {"item_id": CATALOGUE_ITEMS[i % 5]}
        for i in range(23)
    ]
    source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.Table.from_pylist(rows), source)
    summary = await score_file(
        read_settings(arguments_of(world, source, target, "--candidates-max-count", "4"))
    )
    assert summary["rows"] == 23
    written = pq.read_table(target)
    assert bits(written) == await asked_over_http(world, rows)


async def test_domain_moment_model_limit_and_columns_are_told_by_options(
    world: World, tmp_path: Path
) -> None:
    rows = [
        {"who": number, "what": item, "n": number} for number in (4, 7) for item in ("corn", "apple", "egg")
    ]
    source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
    table = pa.Table.from_pylist(rows)
    pq.write_table(table.set_column(1, "what", table.column("what").dictionary_encode()), source)
    options = ["--user-column", "who", "--item-column", "what", "--domain", "display", "--at-ms", str(AT_MS)]
    options += ["--model", "pepnet", "--limit", "4", "--keep", '["n"]', "--prefix", ""]
    summary = await score_file(read_settings(arguments_of(world, source, target, *options)))
    written = pq.read_table(target)
    assert written.column_names == ["n", "click", "multi", "model", "degraded"]
    assert written.column("n").to_pylist() == [4, 4, 4, 7]
    assert set(written.column("model").to_pylist()) == {f"pepnet-{world.registry.versions['pepnet']}"}
    assert summary["requests"] == 2
    assert summary["features_without_column"] == ["store_id", "location"]


@pytest.mark.parametrize(
    "changed",
    [
        {"at_ms": pa.array([AT_MS] * 4, pa.timestamp("ms", "UTC"))},
        {"at_ms": pa.array([AT_MS * 1000] * 4, pa.timestamp("us"))},
        {"at_ms": pa.array([AT_MS] * 4, pa.uint64())},
        {"user_id": pa.array(["u4"] * 4, pa.large_string())},
        {"domain": pa.array(["mailer"] * 4, pa.large_string()).dictionary_encode()},
        {"store_id": pa.array([7.0] * 4)},
        {"store_id": pa.array([7] * 4, pa.uint8()).dictionary_encode()},
        {"location": pa.array(["A", None, "B", None]).dictionary_encode()},
    ],
)
async def test_a_value_is_the_same_in_every_type_that_holds_it(
    world: World, tmp_path: Path, changed: dict[str, pa.Array]
) -> None:
    rows = [
        {
            "user_id": "u4",
            "item_id": item,
            "domain": "mailer",
            "at_ms": AT_MS,
            "store_id": 7,
            "location": place,
        }
        for item, place in (("corn", "A"), ("egg", None), ("dill", "B"), ("apple", None))
    ]
    source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
    table = pa.Table.from_pylist(rows)
    for name, values in changed.items():
        table = table.set_column(table.column_names.index(name), name, values)
    pq.write_table(table, source)
    await score_file(read_settings(arguments_of(world, source, target, "--keep", "[]")))
    written = pq.read_table(target)
    assert written.column_names == ["probability_click", "probability_multi", "model", "degraded"]
    assert bits(written) == await asked_over_http(world, [{"request_id": 1, **row} for row in rows])


async def test_a_context_that_nobody_has_is_unknown(world: World, tmp_path: Path) -> None:
    rows = [
        {
            "user_id": "u4",
            "item_id": item,
            "domain": "mailer",
            "at_ms": AT_MS,
            "store_id": None,
            "location": None,
        }
        for item in CATALOGUE_ITEMS
    ]
    source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.Table.from_pylist(rows), source)
    await score_file(read_settings(arguments_of(world, source, target)))
    expected = await asked_over_http(world, [{"request_id": 1, **row} for row in rows])
    assert bits(pq.read_table(target)) == expected


Change = Callable[[pa.Table], pa.Table]


def with_value(name: str, row: int, value: Any) -> Change:
    def change(table: pa.Table) -> pa.Table:
        values = table.column(name).to_pylist()
        values[row] = value
        return table.set_column(table.column_names.index(name), name, pa.array(values))

    return change


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (
            lambda table: table.drop_columns("item_id"),
            (),
            "there is no column 'item_id'; there are request_id",
        ),
        (lambda table: table, ("--at-column", "when"), "there is no column 'when'"),
        (lambda table: table, ("--keep", '["x"]'), "there is no column 'x'"),
        (lambda table: table, ("--prefix", ""), "column 'click' would be in the output twice"),
        (
            lambda table: table,
            ("--domain", "tv"),
            "--domain: no such domain; there are mailer, display, both",
        ),
        (lambda table: table, ("--request-column", "x"), "there is no column 'x'"),
        (with_value("item_id", 14, None), (), r"row 14 \(from 0\), column 'item_id': empty"),
        (with_value("item_id", 14, ""), (), r"row 14 \(from 0\), column 'item_id': an empty text"),
        (with_value("item_id", 14, "x" * 257), (), r"row 14 \(from 0\), column 'item_id': over 256"),
        (
            with_value("user_id", 14, "u1"),
            (),
            r"row 14 \(from 0\), column 'user_id': other than in the row before",
        ),
        (
            with_value("store_id", 14, 9),
            (),
            r"row 14 \(from 0\), column 'store_id': other than in the row before",
        ),
        (with_value("at_ms", 14, 9), (), r"row 14 \(from 0\), column 'at_ms': other than in the row before"),
        (with_value("domain", 0, "tv"), (), r"row 0 \(from 0\), column 'domain': no such domain"),
        (
            lambda table: table.set_column(3, "at_ms", pa.array([2**64 - 1] * len(table), pa.uint64())),
            (),
            r"row 0 \(from 0\), column 'at_ms': no time in ms",
        ),
        (with_value("at_ms", 0, -1), (), r"row 0 \(from 0\), column 'at_ms': no time in ms"),
        (
            lambda table: table.set_column(4, "store_id", pa.array([[1]] * len(table))),
            (),
            "column 'store_id' is of list<.*>, expected text, numbers or booleans",
        ),
        (
            lambda table: table.append_column("item_id", table.column("item_id")),
            (),
            "column 'item_id' is there more than once",
        ),
    ],
)
async def test_what_is_wrong_is_told_and_nothing_is_written(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Change,
    options: tuple[str, ...],
    message: str,
) -> None:
    """Rows 10 to 14 are one request; parts of 4 rows have it begin in one and end in another."""
    monkeypatch.setattr(parquet, "PART_ROWS", 4)
    source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pq.write_table(change(pa.Table.from_pylist(rows_of_requests())), source)
    target.write_bytes(b"what was there before")
    with pytest.raises(InputFileError, match=message):
        await score_file(read_settings(arguments_of(world, source, target, *options)))
    assert target.read_bytes() == b"what was there before"
    assert {path.name for path in os.scandir(tmp_path)} == {"in.parquet", "out.parquet", "store"}


async def test_a_file_that_is_damaged_or_none_or_the_output_itself_is_refused(
    world: World, tmp_path: Path
) -> None:
    source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.Table.from_pylist(rows_of_requests()), source)
    with pytest.raises(InputFileError, match="is the input"):
        await score_file(read_settings(arguments_of(world, source, source)))
    body = source.read_bytes()
    for damaged, message in ((body[:-9], "no Parquet file"), (b"", "no Parquet file")):
        source.write_bytes(damaged)
        with pytest.raises(InputFileError, match=message):
            await score_file(read_settings(arguments_of(world, source, target)))
    source.write_bytes(body[:4] + b"\xff" * 400 + body[404:])
    with pytest.raises(InputFileError, match="damaged"):
        await score_file(read_settings(arguments_of(world, source, target)))
    source.unlink()
    with pytest.raises(InputFileError, match="no Parquet file that can be read"):
        await score_file(read_settings(arguments_of(world, source, target)))
    source.write_bytes(body)
    with pytest.raises(InputFileError, match="cannot be written"):
        await score_file(read_settings(arguments_of(world, source, tmp_path / "nowhere" / "out.parquet")))
    assert not target.exists()


async def test_a_store_that_is_gone_ends_it_unless_that_is_accepted(world: World, tmp_path: Path) -> None:
    rows = rows_of_requests()
    source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.Table.from_pylist(rows), source)
    gone = ["--store-url", "redis://127.0.0.1:1/0", "--store-timeout-ms", "200"]
    with pytest.raises(StoreUnavailable, match="--accept-missing-history"):
        await score_file(read_settings(arguments_of(world, source, target, *gone)))
    assert not target.exists()
    gone.append("--accept-missing-history")
    summary = await score_file(read_settings(arguments_of(world, source, target, *gone)))
    assert summary["degraded"] == {"history": len(rows)}
    assert pq.read_table(target).column("degraded").to_pylist() == [["history"]] * len(rows)


async def test_an_empty_file_gives_an_empty_file(world: World, tmp_path: Path) -> None:
    source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.Table.from_pylist(rows_of_requests()).slice(0, 0), source)
    summary = await score_file(read_settings(arguments_of(world, source, target)))
    assert summary["rows"] == pq.read_table(target).num_rows == 0


async def test_artefacts_and_settings_that_cannot_be_are_refused(world: World, tmp_path: Path) -> None:
    source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.Table.from_pylist(rows_of_requests()), source)
    with pytest.raises(NotReady, match="no model 'none'"):
        await score_file(read_settings(arguments_of(world, source, target, "--model", "none")))
    with pytest.raises(StartupError, match="limit"):
        read_settings(arguments_of(world, source, target, "--limit", "0"))


async def test_the_command_prints_a_summary_and_exit_codes_tell(world: World, tmp_path: Path) -> None:
    source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.Table.from_pylist(rows_of_requests()), source)

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "service.score_file", *arguments_of(world, source, target, *more)]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))

    done = run("--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == pq.read_table(target).num_rows
    assert done.stderr == ""
    for options, code, message in (
        (("--item-column", "x"), 1, "there is no column 'x'"),
        (("--no-such-option",), 2, "no-such-option"),
        (("--experiments-file", "nowhere.yaml"), 2, "nowhere.yaml cannot be read"),
    ):
        done = run(*options)
        assert done.returncode == code
        assert message in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
