from __future__ import annotations

import pytest

from service.api.media import headers_of, sent_form, takes_gzip, wanted_type
from service.errors import UnsupportedMediaType
from service.pipeline.form import Form


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (None, "application/json"),
        (b"", "application/json"),
        (b"*/*", "application/json"),
        (b"text/html, */*;q=0.8", "application/json"),
        (b"application/*", "application/json"),
        (b"application/json", "application/json"),
        (b"application/msgpack", "application/msgpack"),
        (b"Application/MsgPack", "application/msgpack"),
        (b"application/vnd.msgpack", "application/vnd.msgpack"),
        (b"application/x-msgpack, */*", "application/x-msgpack"),
        (b"application/msgpack, application/json", "application/msgpack"),
        (b"application/json, application/msgpack", "application/json"),
        (b"application/json;q=0.5, application/msgpack", "application/msgpack"),
        (b"application/json, application/msgpack;q=0.9", "application/json"),
        (b"application/msgpack;q=0", "application/json"),
        (b"application/msgpack; q=0.0, */*", "application/json"),
        (b"application/msgpack;q=what", "application/json"),
        (b"application/msgpack;q=nan", "application/json"),
        (b"\xff\xfe, application/msgpack", "application/msgpack"),
    ],
)
def test_the_answer_is_in_the_type_that_is_named_and_weighs_most(accept: bytes | None, wanted: str) -> None:
    assert wanted_type(accept) == wanted


@pytest.mark.parametrize(
    ("accept_encoding", "takes"),
    [
        (None, False),
        (b"", False),
        (b"gzip", True),
        (b"GZIP", True),
        (b"gzip, deflate, br", True),
        (b"x-gzip", True),
        (b"*", True),
        (b"br", False),
        (b"identity", False),
        (b"gzip;q=0", False),
        (b"gzip;q=0, *", False),
        (b"gzip;q=0.1", True),
        (b"*;q=0", False),
        (b"gzip;q=", False),
    ],
)
def test_gzip_is_taken_where_it_is_listed_with_a_weight(accept_encoding: bytes | None, takes: bool) -> None:
    assert takes_gzip(accept_encoding) is takes


@pytest.mark.parametrize(
    ("content_type", "form"),
    [
        (None, Form.JSON),
        (b"application/json; charset=utf-8", Form.JSON),
        (b"application/ld+json", Form.JSON),
        (b"application/msgpack", Form.MSGPACK),
        (b"application/vnd.msgpack", Form.MSGPACK),
        (b"Application/X-MsgPack ; v=5", Form.MSGPACK),
    ],
)
def test_a_body_is_of_the_form_that_its_type_names(content_type: bytes | None, form: Form) -> None:
    assert sent_form(content_type) is form


@pytest.mark.parametrize("content_type", [b"text/plain", b"application/msgpac", b"*/*", b";", b"\xff"])
def test_a_body_of_another_type_is_refused(content_type: bytes) -> None:
    with pytest.raises(UnsupportedMediaType):
        sent_form(content_type)


def test_where_only_json_is_spoken_messagepack_is_refused() -> None:
    assert sent_form(b"application/json", is_json_only=True) is Form.JSON
    with pytest.raises(UnsupportedMediaType):
        sent_form(b"application/msgpack", is_json_only=True)


def test_of_a_header_that_stands_there_twice_the_first_counts() -> None:
    assert headers_of({"headers": [(b"a", b"1"), (b"b", b"2"), (b"a", b"3")]}) == {b"a": b"1", b"b": b"2"}
