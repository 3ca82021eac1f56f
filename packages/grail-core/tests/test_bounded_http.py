"""A stranger's short answer: neither its compression nor its slowness costs more than was allowed."""

from __future__ import annotations

import gzip
import ssl
from pathlib import Path

import pytest

from grail_core import bounded_http
from tooling.testing.certificates import self_signed
from tooling.testing.scripted_server import Answer, RawAnswer, ScriptedServer

HEAD = b"HTTP/1.1 200 OK\r\n"
DRIPS = {
    "a body": RawAnswer(HEAD + b"Content-Length: 4000\r\n\r\n", b"x", -1, 0.01),
    "a body in chunks": RawAnswer(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", -1, 0.01),
    "a header": RawAnswer(HEAD + b"X-Long: ", b"x", -1, 0.01),
    "headers": RawAnswer(HEAD, b"A: b\r\n", -1, 0.01),
    "nothing": RawAnswer(b"", b"", -1, 0.01),
    "interim answers": RawAnswer(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", -1, 0.0),
}


@pytest.mark.parametrize("drip", DRIPS.values(), ids=DRIPS.keys())
def test_who_sends_a_little_now_and_then_is_left_when_the_time_is_over(drip: RawAnswer) -> None:
    with ScriptedServer(drip) as server, pytest.raises(ValueError, match="too slowly"):
        bounded_http.get(server.url, most=1 << 30, seconds=0.2)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd", "br", "x"])
def test_a_compressed_answer_is_refused_and_never_unpacked(coding: str) -> None:
    bomb = gzip.compress(bytes(1 << 20))
    answer = Answer(200, bomb, {"Content-Encoding": coding})
    with ScriptedServer(answer) as server, pytest.raises(ValueError, match="compressed"):
        bounded_http.get(server.url, most=4096, seconds=5.0)


def test_an_answer_that_is_too_long_is_refused_and_one_of_another_status_is_not_read() -> None:
    endless = RawAnswer(HEAD + b"\r\n", bytes(1000), -1)
    with ScriptedServer(endless) as server, pytest.raises(ValueError, match="more than 4096 bytes"):
        bounded_http.get(server.url, most=4096, seconds=5.0)
    refused = RawAnswer(b"HTTP/1.1 500 No\r\n\r\n", bytes(1000), -1)
    with ScriptedServer(refused) as server:
        assert bounded_http.get(server.url, most=4096, seconds=5.0) == bounded_http.ShortAnswer(500, b"")


@pytest.mark.parametrize("url", ["http://me:se/cret@h", "http://h:cret", "http://[cret", "http://me:cret\n@h", "cret"])
def test_no_error_of_a_url_that_is_none_repeats_it(url: str) -> None:
    with pytest.raises(Exception) as caught:
        bounded_http.get(url, most=1, seconds=0.2)
    assert "cret" not in str(caught.value)
    assert "se" not in str(caught.value).split()


def test_over_tls_the_same_limits_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = self_signed(tmp_path / "server.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    bounded_http._trusted.cache_clear()
    try:
        with ScriptedServer(Answer(200, b"ok")) as server:
            server.socket = context.wrap_socket(server.socket, server_side=True)
            url = server.url.replace("http:", "https:")
            assert bounded_http.get(url, most=10, seconds=5.0).body == b"ok"
            for name in ("a body", "headers"):
                server.answers = (DRIPS[name],)
                with pytest.raises(ValueError, match="too slowly"):
                    bounded_http.get(url, most=4000, seconds=0.3)
    finally:
        bounded_http._trusted.cache_clear()
