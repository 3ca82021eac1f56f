"""A beacon for networks on one machine: a local BLS key that signs rounds as drand quicknet does, and an HTTP relay.

The relay speaks drand's paths (`/public/{round}`, `/info`), so that `DrandBeacon` and the verification are the real ones. It
gives a round only when its time has come, by the wall clock or by the clock of a development chain. Whoever has the key
file can compute every round; that is what makes it a development beacon. `grail_core.commands.development_beacon` serves it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import py_arkworks_bls12381 as bls12381

from grail_core.beacon.bls import DOMAIN, Scheme, round_message
from grail_core.beacon.chains import ChainInfo
from grail_core.clock import wall_clock_ms
from grail_core.disk import write_atomically
from grail_core.errors import BeaconError, ConfigurationError
from grail_core.protocol.beacon import BeaconChain, SignedRound

_ORDER = 0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001  # of the prime-order subgroups
_ROUND_PATH = re.compile(r"/public/([1-9][0-9]{0,17})")
_IDLE_SECONDS = 10  # a client that says nothing is let go


def _reduced(secret: bytes) -> bytes:
    """A scalar as the standard's KeyGen (draft-irtf-cfrg-bls-signature, section 2.3) ends with one: the bytes as an integer
    modulo the group order, and where that is zero, the same of their SHA-256. What is below the order already stays."""
    while (scalar := int.from_bytes(secret, "big") % _ORDER) == 0:
        secret = hashlib.sha256(secret).digest()
    return scalar.to_bytes(32, "big")


class DevelopmentKey:
    """A secret key that signs rounds as drand's group does."""

    def __init__(self, secret: bytes) -> None:
        """`secret`: any 32 bytes, big-endian, modulo the group order; a ValueError for another number of them."""
        if len(secret) != 32:
            raise ValueError(f"a beacon key has 32 bytes, not {len(secret)}")
        self._secret = _reduced(bytes(secret))
        self._scalar = bls12381.Scalar.from_be_bytes(self._secret)
        self.public_key = bytes((bls12381.G2Point() * self._scalar).to_compressed_bytes())

    @classmethod
    def from_seed(cls, seed: bytes) -> DevelopmentKey:
        """The key of a seed of any length: 64 bytes of SHAKE-256, modulo the group order minus 1, plus 1."""
        wide = int.from_bytes(hashlib.shake_256(b"grail/beacon/key" + seed).digest(64), "big")
        return cls((1 + wide % (_ORDER - 1)).to_bytes(32, "big"))

    @classmethod
    def load(cls, path: Path) -> DevelopmentKey:
        """Raises `ConfigurationError` where there is no key file of 64 hexadecimal digits."""
        try:
            return cls(bytes.fromhex(path.read_text("ascii").strip()))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it does not hold 64 hexadecimal digits"
            raise ConfigurationError(
                f"the beacon's key file cannot be used: {reason}",
                where=str(path),
                hint=f"make one: `head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n' > {path.name}`; any 32 bytes are a key",
            ) from error

    def save(self, path: Path) -> None:
        """Write the key file, readable by its owner only."""
        write_atomically(path, self._secret.hex().encode() + b"\n", mode=0o600)

    def sign(self, round_: int) -> SignedRound:
        point = bls12381.G1Point.hash_to_curve(round_message(round_), DOMAIN) * self._scalar
        return SignedRound(round_, bytes(point.to_compressed_bytes()))

    def __repr__(self) -> str:
        return f"DevelopmentKey({self.public_key.hex()[:16]}…)"


def development_chain(chain: BeaconChain) -> ChainInfo:
    """What a relay of a development key says of its chain; the group hash is made up, of the key."""
    group = hashlib.sha256(b"grail/beacon/group" + chain.public_key).digest()
    return ChainInfo(Scheme.RFC9380, chain.public_key, chain.genesis_time_s, chain.period_s, group, "development")


class DevelopmentBeacon:
    """The `Beacon` of a development key inside one process: no relay, no network. For tests and simulations."""

    def __init__(self, key: DevelopmentKey, chain: BeaconChain) -> None:
        if chain.public_key != key.public_key:
            raise BeaconError("the key is not this beacon chain's", where=repr(key))
        self._key = key
        self._chain = chain

    @property
    def chain(self) -> BeaconChain:
        return self._chain

    def get(self, round_: int) -> SignedRound:
        return self._key.sign(round_)


class Relay(ThreadingHTTPServer):
    """Serves rounds whose time has come on 127.0.0.1. `port` 0 takes a free one; `url` says which."""

    daemon_threads = True

    def __init__(
        self, key: DevelopmentKey, *, genesis_time_s: int, period_s: int, port: int, clock: Callable[[], int] = wall_clock_ms
    ) -> None:
        self.key = key
        self.chain = BeaconChain(key.public_key, genesis_time_s, period_s)
        self.clock = clock
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise ConfigurationError(
                f"the beacon relay cannot listen: {error.strerror}", where=f"127.0.0.1:{port}", hint="choose another --port"
            ) from error

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, path: str) -> tuple[int, dict[str, Any]]:
        """HTTP status and JSON of a path."""
        if path == "/info":
            return 200, development_chain(self.chain).to_json()
        if path == "/public/latest":
            path = f"/public/{max(1, self.chain.round_at(self.clock() + 1) - 1)}"
        match = _ROUND_PATH.fullmatch(path)
        if match is None:
            return 404, {"error": "the paths are /info, /public/latest and /public/{round}"}
        round_ = int(match[1])
        missing_ms = self.chain.time_of_ms(round_) - self.clock()
        if missing_ms > 0:
            return 425, {"error": f"round {round_} is due in {missing_ms} ms"}
        signed = self.key.sign(round_)
        return 200, {"round": round_, "randomness": signed.randomness.hex(), "signature": signed.signature.hex()}


class _Handler(BaseHTTPRequestHandler):
    server: Relay
    timeout = _IDLE_SECONDS
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        status, value = self.server.answer(self.path)
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Silent: a relay is asked several times a second."""
