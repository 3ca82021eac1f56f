"""A network's parameters from where somebody published them: a JSON file here, or an https URL with the digest they must have.

The digest is the one of the parameters (`NetworkParameters.digest`), not of the file's bytes: blanks in it do not count.
Whoever opens a network publishes the file and the digest by different ways; `grail network` says what a file has. Parameters
that were fetched are kept under their digest, so that a role starts again while the URL does not answer.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from grail_core.addresses import without_access
from grail_core.bounded_http import get
from grail_core.disk import write_atomically
from grail_core.errors import ConfigurationError, StorageError
from grail_core.proof.numerics import NUMERICS_CLASSES
from grail_core.protocol.network import NetworkParameters

MAX_NETWORK_BYTES = 64 * 1024
PATIENCE_S = 15.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_DIGEST = "GRAIL_NETWORK_DIGEST"


def is_url(name: str) -> bool:
    return "://" in name


def read_file(name: str, *, where: str) -> NetworkParameters:
    """Parameters of a file. Errors: ConfigurationError with what is wrong in it; `where` is the setting that names it."""
    try:
        with Path(name).open("rb") as file:
            return parsed(file.read(MAX_NETWORK_BYTES + 1), name, where=where)
    except OSError as error:
        raise _does_not_parse(error.strerror or str(error), name, where) from error


def read_url(url: str, *, where: str, digest: str, cache: Path | None) -> NetworkParameters:
    """Parameters of a URL, once they have this digest (64 hexadecimal digits); without one, whatever stands there.

    Args:
        cache: GRAIL_CACHE_DIR, where parameters that were fetched for a digest are looked for first; None: nowhere.

    Raises:
        ConfigurationError: no https, no answer, an answer that does not parse or has another digest.
    """
    kept = None if cache is None or not digest else cache / "networks" / f"{digest}.json"
    if kept is not None and kept.is_file():
        with suppress(ConfigurationError):  # damaged: it is fetched again
            params = read_file(str(kept), where=where)
            if params.digest.hex() == digest:
                return params
    shown = without_access(url)
    params = parsed(_fetched(url, shown, where), shown, where=where)
    require_digest(params, digest, shown)
    if kept is not None:
        with suppress(StorageError):  # a cache that cannot be written costs a request at the next start
            write_atomically(kept, json.dumps(params.to_json()).encode())
    return params


def require_digest(params: NetworkParameters, digest: str, shown: str) -> None:
    """Raises ConfigurationError where a digest is asked for, and these parameters have another."""
    if digest and params.digest.hex() != digest:
        raise ConfigurationError(
            f"the network's parameters are others than {_DIGEST} says: their digest is {params.digest.hex()}",
            where=shown,
            hint="get file and digest again from the network's operator; everybody of a network has the same",
        )


def require_pinned(url: str, digest: str, where: str) -> None:
    """What a URL shows may change between two starts, and with it what this role signs: it is taken by its digest alone."""
    if not digest:
        raise ConfigurationError(
            f"parameters from a URL ({where}) are taken by their digest alone, and none is set",
            where=_DIGEST,
            hint=f"set it to the one that the network's operator published; `grail network` with this URL shows what "
            f"{without_access(url)} has",
        )


def parsed(raw: bytes, shown: str, *, where: str) -> NetworkParameters:
    """Parameters of bytes that anybody wrote. `shown`: where they are from. Errors: ConfigurationError."""
    try:
        if len(raw) > MAX_NETWORK_BYTES:
            raise ValueError(f"it has more than {MAX_NETWORK_BYTES} bytes")
        value = json.loads(raw)
        _require_unchained(value)
        params = NetworkParameters.from_json(value)
    except (ValueError, RecursionError) as error:
        raise _does_not_parse(error, shown, where) from error
    _require_known_classes(params, shown)
    return params


def _fetched(url: str, shown: str, where: str) -> bytes:
    import httpx  # slow to import

    try:
        parts = urlsplit(url)
        plain = parts.scheme == "http" and parts.hostname in _LOOPBACK
        if parts.scheme != "https" and not plain:
            raise ConfigurationError(
                "parameters are fetched by https alone", where=f"{where}: {shown}", hint="give an https URL, or a file's path"
            )
        answer = get(url, most=MAX_NETWORK_BYTES, seconds=PATIENCE_S)
        if answer.status != 200:
            raise ValueError(f"it answers with status {answer.status}")
        return answer.body
    except (ValueError, httpx.HTTPError) as error:
        why = str(error) if isinstance(error, ValueError) else f"no answer ({type(error).__name__})"
        raise ConfigurationError(
            f"the network's parameters cannot be fetched: {why}",
            where=f"{where}: {shown}",
            hint="try again, or get the file in another way and name its path: the digest tells whether it is the same",
        ) from error


def _does_not_parse(why: object, shown: str, where: str) -> ConfigurationError:
    return ConfigurationError(
        f"the network file does not parse: {why}",
        where=shown,
        hint=f"check {where}; a file of an earlier version lacks members: get the network's present one",
    )


def _require_unchained(value: object) -> None:
    """Records carry a round's signature of 48 bytes alone: a beacon of another scheme could not be verified from them."""
    beacon = value.get("beacon") if isinstance(value, dict) else None
    if isinstance(beacon, dict) and ("scheme" in beacon or len(str(beacon.get("public_key", ""))) == 96):
        raise ValueError(
            "$network.beacon: a network's beacon is of the scheme bls-unchained-g1-rfc9380 (quicknet), with a key of 96 bytes; "
            "rounds of other chains are verified by `grail beacon round` alone"
        )


def _require_known_classes(params: NetworkParameters, path: str) -> None:
    """The protocol's list is closed: a name that is not on it would admit nobody, and every miner would be told so alone."""
    unknown = {*params.proof_classes, *params.generation_classes, *params.validator_classes} - NUMERICS_CLASSES.keys()
    if unknown:
        raise ConfigurationError(
            f"the network file names numerics classes that there are not: {', '.join(sorted(unknown))}",
            where=path,
            hint=f"classes of this version: {', '.join(NUMERICS_CLASSES)}",
        )
