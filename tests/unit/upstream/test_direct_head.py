"""Heads of requests and responses as bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerx.upstream.direct_head import Framing, ResponseHeaders, address_of, encode_head, read_framing


def headers_of(head: bytes) -> ResponseHeaders:
    return ResponseHeaders(head, head.lower())


@pytest.mark.parametrize(
    ("url", "host", "port", "authority", "path"),
    [
        ("https://api.test/v1/x", "api.test", 443, "api.test", "/v1/x"),
        ("http://API.test:80", "api.test", 80, "api.test", "/"),
        ("http://api.test:8080/p%2Fq?a=b%20c&d#e", "api.test", 8080, "api.test:8080", "/p%2Fq?a=b%20c&d"),
        ("http://[::1]:1234/x", "::1", 1234, "[::1]:1234", "/x"),
        ("https://bücher.test/straße", "xn--bcher-kva.test", 443, "xn--bcher-kva.test", "/stra%C3%9Fe"),
        ("http://my_service:9/x", "my_service", 9, "my_service:9", "/x"),
    ],
)
def test_a_url_is_taken_apart_as_it_is_sent(url: str, host: str, port: int, authority: str, path: str) -> None:
    found = address_of(url)
    assert (found.host, found.port, found.authority, found.path) == (host, port, authority, path)
    assert found.tls is url.startswith("https")


def test_a_head_ends_where_the_length_belongs() -> None:
    head = encode_head("POST", address_of("http://h/x"), {"Accept": "a/b", "X-Name": "ü"})
    assert head == (
        b"POST /x HTTP/1.1\r\nhost: h\r\nAccept: a/b\r\nX-Name: \xc3\xbc\r\n"
        b"accept-encoding: identity\r\nuser-agent: RouterX\r\ncontent-length: "
    )


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=8), max_size=4), st.text(max_size=4))
def test_no_header_and_no_method_can_add_a_line(headers: dict[str, str], method: str) -> None:
    try:
        head = encode_head(method, address_of("http://h/x"), headers)
    except ValueError:
        return
    lines = head.split(b"\r\n")
    assert len(lines) == 3 + len(headers) + sum(
        name not in {given.lower() for given in headers} for name in ("accept", "accept-encoding", "user-agent")
    )
    assert b"\n" not in b"".join(lines)
    assert b"\r" not in b"".join(lines)
    assert b"\0" not in head


@given(st.text(st.characters(codec="utf-8"), max_size=12))
def test_no_url_can_add_a_line_or_a_space(text: str) -> None:
    try:
        found = address_of("http://h/" + text)
    except ValueError:
        return
    assert all("!" <= sign <= "~" for sign in found.path + found.authority)


@pytest.mark.parametrize(
    ("fields", "framing"),
    [
        (b"", Framing(None, False, None, None)),
        (b"\r\nContent-Length:  12 ", Framing(12, False, None, None)),
        (b"\r\nTRANSFER-ENCODING: Chunked", Framing(None, True, None, None)),
        (b"\r\ncontent-encoding: X-Gzip\r\nkeep-alive: max=5, timeout=30", Framing(None, False, "gzip", 30.0)),
        (b"\r\nkeep-alive: xtimeout=30", Framing(None, False, None, None)),
        (b"\r\nx-content-length: 5\r\nx: content-length: 6", Framing(None, False, None, None)),
        (b"\r\ncontent-length: 1\r\ncontent-length: 1", None),
        (b"\r\ncontent-length: 1, 1", None),
        (b"\r\ncontent-length: 1_0", None),
        (b"\r\ncontent-length: 1\r\ntransfer-encoding: chunked", None),
        (b"\r\ntransfer-encoding: chunked, chunked", None),
        (b"\r\ncontent-encoding: gzip, gzip", None),
        (b"\r\ncontent-encoding: gzip\r\ncontent-encoding: gzip", None),
        (b"\r\ncontent-encoding: zstd", None),
    ],
)
def test_framing_is_read_strictly(fields: bytes, framing: Framing | None) -> None:
    head = b"HTTP/1.1 200 OK" + fields
    assert read_framing(head, head.lower()) == framing


def test_headers_are_found_in_any_case_and_the_first_of_two_counts() -> None:
    headers = headers_of(b"HTTP/1.1 200 OK\r\nRetry-After: 7\r\nX:\r\nLocation: http://H/\xe9 \r\nretry-after: 9")
    assert headers["retry-AFTER"] == headers.get("Retry-After") == "7"
    assert headers["location"] == "http://H/é"
    assert headers["x"] == ""
    assert "X" in headers
    assert "http/1.1 200 ok" not in headers
    assert headers.get("after") is None
    assert headers.get("h\u2603", "none") == "none"
    assert dict(headers) == {"retry-after": "7", "x": "", "location": "http://H/é"}
    assert len(headers) == 3
    assert "7" not in repr(headers)
    with pytest.raises(KeyError):
        headers["after"]
