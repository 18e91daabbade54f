"""Logs: one line of JSON each, and never the text of a stray error."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

from service.telemetry.logs import JsonFormatter


def formatted(**fields: Any) -> dict[str, Any]:
    record = logging.LogRecord(
        "name", logging.WARNING, "file", 1, "said %s", ("so",), fields.pop("exc_info", None)
    )
    vars(record).update(fields)
    line = JsonFormatter().format(record)
    assert "\n" not in line
    content: dict[str, Any] = json.loads(line)
    return content


def test_a_line_holds_level_logger_message_and_what_was_added() -> None:
    line = formatted(route="/score", status=200, arms={"layer": "arm"}, odd=object)
    assert line["level"] == "warning"
    assert line["logger"] == "name"
    assert line["message"] == "said so"
    assert line["status"] == 200
    assert line["arms"] == {"layer": "arm"}


def test_newlines_stay_inside_their_string() -> None:
    assert formatted(route="a\nb")["route"] == "a\nb"


def test_an_error_has_type_and_place_and_not_its_text() -> None:
    try:
        raise KeyError("user-1")
    except KeyError:
        line = formatted(exc_info=sys.exc_info())
    assert line["error"] == "KeyError"
    assert "test_logs.py" in line["trace"][0]
    assert "user-1" not in json.dumps(line)
