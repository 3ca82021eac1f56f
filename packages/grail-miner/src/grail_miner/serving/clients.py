"""Who may ask a node from elsewhere: a TOML file of clients, each a name, the hash of its token, and its limits.

A token is 32 random bytes in text, so nobody can guess one whose plain SHA-256 is known: no salt and no slow hash is needed,
and the file tells whoever reads it nothing that asks a node. Who can write it decides who is served, so a file that everybody
may write is refused. It is read again when it changes, so that a token is revoked without a restart; a file that became bad
leaves the clients as they were. Nothing here knows of HTTP.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import re
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from grail_core.disk import storage_error
from grail_core.errors import ConfigurationError
from grail_core.participant.settings_files import read_toml
from grail_core.protocol.reading import Node
from grail_core.telemetry import get_logger

log = get_logger(__name__)

MAX_FILE_BYTES: Final = 64 << 10
MAX_CLIENTS: Final = 256
MAX_NETWORKS: Final = 32
NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Of a client: what a TOML key may be without quotes, and what needs no escape in a metric or a table."""
MIN_TOKEN: Final = 43
"""Characters: 32 bytes in base64. A shorter text is no token here, whatever its hash."""
MAX_TOKEN: Final = 256
_LOOK_SECONDS: Final = 1.0
_MAX_RATE: Final = 10**9
_MAX_CONCURRENT: Final = 1_024

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Client:
    """Who asks. Of a limit, None is no limit at all."""

    name: str
    requests_per_minute: int | None
    tokens_per_minute: int | None  # of prompts and completions together
    concurrent: int | None  # requests that wait or are answered
    metrics: bool = False  # it may read /metrics
    networks: tuple[IPNetwork, ...] = ()  # from which its token is taken; none: from everywhere
    operator: bool = False  # it sees every client's usage
    token_hash: bytes = field(default=b"", repr=False)


OPERATOR: Final = Client("loopback", None, None, None, metrics=True, operator=True)
"""A program of this machine that shows no token."""
RECEIPT_READER: Final = Client("receipt-reader", 0, 0, 0)
"""Somebody elsewhere without a token of a client, who is let to the receipts alone, which have tokens of their own."""
_RESERVED: Final = frozenset((OPERATOR.name, RECEIPT_READER.name, "other"))


@dataclass(frozen=True)
class ClientList:
    """What a file says. `loopback`: whether programs of this machine need no token."""

    clients: tuple[Client, ...]
    loopback: bool = True

    def find(self, token: str, peer: str) -> Client | None:
        """Whose token it is. Every entry is compared, in a time that does not depend on how much of it is right.

        Args:
            peer: the address of whoever connects, against a client's `networks`.
        """
        if not MIN_TOKEN <= len(token) <= MAX_TOKEN:
            return None
        digest = hash_of(token)
        found = None
        for one in self.clients:
            if hmac.compare_digest(one.token_hash, digest):
                found = one
        return found if found is not None and _is_within(peer, found.networks) else None


def hash_of(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", errors="replace")).digest()


def read_clients(path: Path) -> ClientList:
    """The clients of a file.

    Raises:
        ConfigurationError: it is not there, everybody may write it, or something in it is unknown, twice or out of bounds.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise ConfigurationError(
            "there is no such file of clients", where=str(path), hint=f"make it with its first client: {_COMMAND} --file {path}"
        ) from None
    except OSError as error:
        raise storage_error(error, path) from error
    if mode & stat.S_IWOTH:
        raise ConfigurationError(
            "everybody on this machine may write the file of clients", where=str(path), hint=f"chmod 600 {path}"
        )
    toml = read_toml(path, most=MAX_FILE_BYTES)
    try:
        return _clients(Node(toml.values))
    except ValueError as error:
        member, _, what = str(error).partition(": ")
        hint = f"docs/inference.md shows what stands there; `{_COMMAND}` makes an entry"
        raise ConfigurationError(what, where=f"{path}: {member.removeprefix('$').removeprefix('.')}", hint=hint) from None


class Clients:
    """The clients of a file, as it is now: looked at once a second at most.

    Raises:
        ConfigurationError: as `read_clients`, of the file at the beginning. Later a bad one is logged, once.
    """

    def __init__(self, path: Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._monotonic = monotonic
        self._looked = monotonic()
        self._seen = _state_of(path)
        self._list = read_clients(path)

    @property
    def now(self) -> ClientList:
        at = self._monotonic()
        if at - self._looked >= _LOOK_SECONDS:
            self._looked = at
            state = _state_of(self._path)  # before it is read: what changes meanwhile is seen the next time
            if state != self._seen:
                self._seen = state
                self._read()
        return self._list

    def _read(self) -> None:
        try:
            self._list = read_clients(self._path)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who were served yesterday are served on
            what = error.what if isinstance(error, ConfigurationError) else type(error).__name__
            where = error.where if isinstance(error, ConfigurationError) else str(self._path)
            log.event("clients_kept", reason=what, where=where, clients=len(self._list.clients))
            return
        log.event("clients_read", clients=len(self._list.clients))


def _state_of(path: Path) -> tuple[int, ...]:
    """Another one after every change; none of a file that is not there. A change of rights is one too (ctime)."""
    try:
        about = os.stat(path)
    except OSError:
        return ()
    return about.st_mtime_ns, about.st_ctime_ns, about.st_size, about.st_ino


def _clients(root: Node) -> ClientList:
    """Raises ValueError with the path."""
    m = _known(root, "clients", "loopback")
    named = m["clients"].entries(MAX_CLIENTS) if "clients" in m else {}
    clients = tuple(_client(name, node) for name, node in named.items())
    first: dict[bytes, str] = {}
    for one in clients:
        if (other := first.setdefault(one.token_hash, one.name)) != one.name:
            named[one.name].refuse(f"it has the token of {other}; a token is one client's")
    return ClientList(clients, m["loopback"].flag() if "loopback" in m else True)


def _client(name: str, node: Node) -> Client:
    if not NAME.fullmatch(name) or name in _RESERVED:
        Node(name, "$.clients").refuse(f"{name!r:.80} is no name of a client: {NAME_IN_WORDS}")
    m = _known(node, "hash", "requests_per_minute", "tokens_per_minute", "concurrent", "metrics", "networks")
    if "hash" not in m:
        node.refuse("no member 'hash'")
    return Client(
        name,
        requests_per_minute=_number(m, "requests_per_minute", 60, _MAX_RATE),
        tokens_per_minute=_number(m, "tokens_per_minute", 100_000, _MAX_RATE),
        concurrent=_number(m, "concurrent", 8, _MAX_CONCURRENT),
        metrics="metrics" in m and m["metrics"].flag(),
        networks=tuple(_network(one) for one in m["networks"].items(MAX_NETWORKS)) if "networks" in m else (),
        token_hash=m["hash"].raw(32),
    )


NAME_IN_WORDS: Final = f"up to 64 of A-Z, a-z, 0-9, _ and -, and none of {', '.join(sorted(_RESERVED))}"
_COMMAND: Final = "grail-miner token NAME"


def is_name(text: str) -> bool:
    """Can a client be called this?"""
    return NAME.fullmatch(text) is not None and text not in _RESERVED


def _known(node: Node, *names: str) -> Mapping[str, Node]:
    """The members that are there; none of another name."""
    m = node.entries(MAX_CLIENTS)
    for name in m:
        if name not in names:
            node.refuse(f"unknown member {name!r:.80}")
    return m


def _number(m: Mapping[str, Node], name: str, otherwise: int, most: int) -> int:
    return m[name].integer(1, most) if name in m else otherwise


def _network(node: Node) -> IPNetwork:
    text = node.text(64)
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        node.refuse("no network: 203.0.113.0/24, 2001:db8::/32 or one address, with no bit set behind the mask")


def _is_within(peer: str, networks: tuple[IPNetwork, ...]) -> bool:
    if not networks:
        return True
    try:
        address: IPAddress = ipaddress.ip_address(peer)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return any((mapped or address) in network for network in networks)
