"""HTTP with a node, as with a stranger: sizes are bounded while they are read, and a refusal says what the node says.

Redirects are not followed and nothing is unpacked. A client's token goes with every request but those of receipts, which have
tokens of their own. The events of a streamed answer are read strictly: comments, and one line of `data:` an event.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from grail_core.addresses import without_access
from grail_core.errors import ConfigurationError, StorageError
from grail_core.protocol.reading import Node, parse_json
from grail_core.text import printable

MAX_ANSWER: Final = 16 << 20  # bytes: 16 choices of 8,192 tokens as JSON text; of a stream everything, the comments too
MAX_EVENT: Final = 1 << 20  # bytes of one line of a stream
TOKEN_VARIABLE: Final = "GRAIL_NODE_TOKEN"
_MAX_ERROR: Final = 64 << 10
_MAX_SAID: Final = 2_000  # characters of it that are shown
_MAX_TOKEN: Final = 256  # characters, as a node's file of clients has it
_DONE: Final = b"[DONE]"
_ANOTHER: Final = "ask another node"


def client_token(file: Path | None) -> str | None:
    """The token of a file, else of the environment; None where neither has one.

    Raises:
        ConfigurationError: it cannot be read, or is no token. The text is in no message.
    """
    if file is not None:
        where, text = str(file), _read_token(file)
    elif TOKEN_VARIABLE in os.environ:
        where, text = TOKEN_VARIABLE, os.environ[TOKEN_VARIABLE]
    else:
        return None
    token = text.strip()
    if not 0 < len(token) <= _MAX_TOKEN or not all("!" <= letter <= "~" for letter in token):
        what = f"no client's token: one word of at most {_MAX_TOKEN} ASCII characters is expected"
        raise ConfigurationError(what, where=where, hint="the node's operator makes one with: grail-miner token NAME")
    return token


def _read_token(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(4 * _MAX_TOKEN).decode("ascii", "replace")
    except OSError as error:
        raise ConfigurationError(
            f"the token cannot be read: {error.strerror}", where=str(file), hint="--token-file names a file with the token"
        ) from error


def shown(url: str) -> str:
    """A node's URL without what may give access in it. What a node is asked is no secret of its client's."""
    base, mark, asked = url.rpartition("/v1/")
    return f"{without_access(base)}{mark}{asked}" if mark else without_access(url)


def in_the_clear(url: str) -> bool:
    """Whether what goes there can be read on the way: plain HTTP to another machine."""
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname == "localhost":
        return False
    try:
        return not ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return True


@dataclass(frozen=True)
class NodeHttp:
    """Requests to one node, on a client whose timeouts are set."""

    client: httpx.Client
    token: str | None = None

    def json(self, method: str, url: str, body: dict[str, Any] | None = None) -> Node:
        """What a 200 says. Raises StorageError."""
        raw = self._whole(method, url, MAX_ANSWER, body=body, headers=self._authorised())
        try:
            return parse_json(raw, most=MAX_ANSWER, floats=True)
        except ValueError as error:
            raise unreadable(url, error) from error

    def receipt(self, url: str, token: str, most: int) -> bytes:
        """At most so many bytes. Raises StorageError."""
        return self._whole("GET", url, most, params={"token": token})

    def events(self, url: str, body: dict[str, Any]) -> Iterator[Node]:
        """Each event of a streamed answer, to the `[DONE]` that ends it.

        Raises:
            StorageError: no stream, one that breaks off, is none, or is too long; an event that says what went wrong.
        """
        with self._response("POST", url, body=body, headers=self._authorised()) as response:
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "text/event-stream":
                what = f"the node does not stream its answer, it sends {kind or 'something'!r}"
                raise StorageError(what, where=shown(url), hint="--no-stream asks for the answer as a whole")
            for data in _data(response.iter_raw(), url):
                if data == _DONE:
                    return
                yield _event(data, url)
        raise StorageError("the stream broke off before the answer was whole", where=shown(url), hint="ask again")

    def _authorised(self) -> dict[str, str]:
        return {} if self.token is None else {"authorization": f"Bearer {self.token}"}

    def _whole(
        self,
        method: str,
        url: str,
        most: int,
        *,
        body: dict[str, Any] | None = None,
        params: dict[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        with self._response(method, url, body=body, params=params, headers=headers or {}) as response:
            return _bounded(response, most, url)

    @contextmanager
    def _response(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: dict[str, Any] | None = None,
        params: dict[str, str] | None = None,
    ) -> Iterator[httpx.Response]:
        """A 200, whose body is read as it was sent: few compressed bytes can be gigabytes."""
        sent = {"accept-encoding": "identity", **headers}
        try:
            with self.client.stream(method, url, json=body, params=params, headers=sent) as response:
                if response.headers.get("content-encoding", "identity") != "identity":
                    what = "the node sends a compressed body, which was not asked for"
                    raise StorageError(what, where=shown(url), hint=_ANOTHER)
                if response.status_code != 200:
                    self._refused(response, url)
                yield response
        except httpx.InvalidURL:  # its words may be part of a password
            raise ConfigurationError("this is no URL of a node", where=shown(url), hint="--node http://HOST:PORT") from None
        except httpx.HTTPError as error:
            raise StorageError(
                f"the node does not answer: {str(error) or type(error).__name__}",
                where=shown(url),
                hint="does `grail-miner serve` run there? --node says where to look",
            ) from error

    def _refused(self, response: httpx.Response, url: str) -> None:
        said = printable(_reason(_bounded(response, _MAX_ERROR, url)), _MAX_SAID)  # one line: none of it may look like ours
        hint = "see what it says"
        if response.status_code == 401:
            hint = f"--token-file, or {TOKEN_VARIABLE}, has the token that the node's operator gave you"
        raise StorageError(f"the node refuses ({response.status_code}): {said}", where=shown(url), hint=hint)


def member(node: Node, name: str) -> Node:
    """One member of an object that may have others. Raises ValueError."""
    value = node.value
    if not isinstance(value, Mapping) or name not in value:
        node.refuse(f"no member {name!r}")
    return Node(value[name], f"{node.path}.{name}")


def unreadable(url: str, error: Exception) -> StorageError:
    return StorageError(f"the node's answer cannot be read: {error}", where=shown(url), hint="is a GRAIL node there?")


def _bounded(response: httpx.Response, most: int, url: str) -> bytes:
    raw = bytearray()
    for part in response.iter_raw():
        raw += part
        if len(raw) > most:
            raise StorageError(f"the node sends more than {most} bytes", where=shown(url), hint=_ANOTHER)
    return bytes(raw)


def _data(parts: Iterator[bytes], url: str) -> Iterator[bytes]:
    """The data of each event."""
    data: bytes | None = None
    for line in _lines(parts, url):
        if line.startswith(b"data:") and data is None:
            data = line[5:].removeprefix(b" ")
        elif not line:
            if data is not None:
                yield data
            data = None
        elif not line.startswith(b":"):
            raise unreadable(url, ValueError("a line of the stream is neither a comment nor one line of data"))


def _lines(parts: Iterator[bytes], url: str) -> Iterator[bytes]:
    """Each line that has its end; what comes after the last one is no line."""
    held, total = bytearray(), 0
    for part in parts:
        total += len(part)
        if total > MAX_ANSWER:
            raise StorageError(f"the node sends more than {MAX_ANSWER} bytes", where=shown(url), hint=_ANOTHER)
        *whole, rest = part.split(b"\n")
        for line in whole:
            held += line
            _require_short(held, url)
            yield bytes(held).removesuffix(b"\r")
            held.clear()
        held += rest
        _require_short(held, url)


def _require_short(line: bytearray, url: str) -> None:
    if len(line) > MAX_EVENT:
        raise StorageError(f"a line of the node's stream has more than {MAX_EVENT} bytes", where=shown(url), hint=_ANOTHER)


def _event(data: bytes, url: str) -> Node:
    try:
        node = parse_json(data, most=MAX_EVENT, floats=True)
        failed = isinstance(node.value, Mapping) and "error" in node.value
        said = member(member(node, "error"), "message").text(_MAX_ERROR) if failed else None
    except ValueError as error:
        raise unreadable(url, error) from error
    if said is not None:
        raise StorageError(
            f"the node failed while it answered: {said}", where=shown(url), hint="ask again, or ask another node"
        )
    return node


def _reason(raw: bytes) -> str:
    try:
        error = member(parse_json(raw, most=_MAX_ERROR, tokens=1000, floats=True), "error")
        return member(error, "message").text(_MAX_ERROR)
    except ValueError:
        return raw[:200].decode("utf-8", "replace")
