from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.catalogue_lookup import (
    BEGIN,
    END,
    FIRST_NUMBER,
    DisagreementError,
    compared,
    dict_of,
    make,
    measured,
    numbers_of,
    rendered,
)
from benchmarks.report import placed
from service.contract.catalogue import Catalogue, read_catalogue

PAGE = Path(__file__).parents[3] / "docs" / "performance.md"


def test_every_number_is_listed_once():
    assert sorted(numbers_of(1000).tolist()) == [*range(FIRST_NUMBER, FIRST_NUMBER + 1000)]


def test_the_dict_is_of_the_list_that_was_written(tmp_path):
    make(tmp_path / "items", 100)
    catalogue = read_catalogue(tmp_path / "items")
    assert dict_of(tmp_path / "items") == {
        item_id: catalogue.id_of(item_id) for item_id in catalogue.item_ids
    }
    assert len(catalogue) == 100


def test_a_table_that_gives_other_ids_than_the_dict_ends_the_run():
    catalogue = Catalogue("items", [str(number) for number in numbers_of(100).tolist()])
    known = {item_id: i for i, item_id in enumerate(catalogue.item_ids)}
    with pytest.raises(DisagreementError, match="200 ids of 100 items"):
        compared(catalogue, known, ids_count=200, rounds=1)


def test_a_row_has_sizes_of_the_files_and_is_shown_with_its_look_ups():
    row = measured(2000, rounds=2)
    assert row["items"] == 2000 and row["list_bytes"] == 9 * 2000
    assert 16 * 2000 < row["table_bytes"] < 22 * 2000
    assert [lookup["ids"] for lookup in row["lookups"]] == [200, 500]
    meta = {"versions": {"numpy": "2"}, "command": "c", "date": "d", "machine": "m"}
    lines = rendered({"meta": meta, "rows": [row]}).splitlines()
    assert lines[0].startswith("`c` on d, m, numpy 2; median of 2 rounds, load average ")
    assert [line.split("|")[1:3] for line in lines if line.startswith("| 2,000")][1:] == [
        [" 2,000 ", " 200 "],
        [" 2,000 ", " 500 "],
    ]


def test_the_page_has_a_place_for_the_results():
    assert f"{BEGIN}\nfigures\n{END}" in placed(PAGE.read_text(), "figures", marks=(BEGIN, END))
