"""`grail-miner token`: a new client's token, told once, and its hash in the file of clients.

The file is replaced as a whole and what was in it stays as it was written. Two commands at once wait for each other.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from grail_core.disk import storage_errors, write_atomically
from grail_core.errors import ConfigurationError
from grail_miner.serving.clients import MAX_CLIENTS, MAX_FILE_BYTES, NAME_IN_WORDS, hash_of, is_name, read_clients

_TOKEN_BYTES: Final = 32
_PREFIX: Final = "grail-"  # what scans of repositories for secrets can look for


def add_client(path: Path, name: str) -> str:
    """Append a client with the usual limits to a file, which is made if it is not there, mode 0600. Returns its token.

    Raises:
        ConfigurationError: no name, a name that is there already, a file that cannot be read or takes no more.
        DiskFullError, StorageError: nothing was changed.
    """
    if not is_name(name):
        raise ConfigurationError(f"{name!r:.80} is no name of a client", where="NAME", hint=f"take {NAME_IN_WORDS}")
    path = path.resolve()  # of a link, the file that it leads to
    with _alone_in(path.parent):
        former = ""
        if path.exists():
            clients = read_clients(path).clients
            if any(one.name == name for one in clients):
                raise ConfigurationError(
                    f"there is a client {name} already",
                    where=str(path),
                    hint="take another name, or remove its entry first: then its former token is worth nothing",
                )
            if len(clients) >= MAX_CLIENTS:
                raise ConfigurationError(f"{MAX_CLIENTS} clients are in the file", where=str(path), hint="remove one")
            with storage_errors(path):
                former = path.read_text(encoding="utf-8-sig")
        token = _PREFIX + secrets.token_urlsafe(_TOKEN_BYTES)
        text = f'{former.rstrip()}\n\n[clients.{name}]\nhash = "{hash_of(token).hex()}"\n'.lstrip()
        _require_readable(text, path)
        write_atomically(path, text.encode(), mode=0o600)
    return token


def _require_readable(text: str, path: Path) -> None:
    if len(text.encode()) > MAX_FILE_BYTES:
        raise ConfigurationError(
            f"the file would have more than {MAX_FILE_BYTES:,} bytes", where=str(path), hint="remove a client"
        )
    try:
        tomllib.loads(text)
    except ValueError:
        raise ConfigurationError(
            "no entry can be appended to this file", where=str(path), hint="write each client as a table [clients.NAME]"
        ) from None


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with storage_errors(folder):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
