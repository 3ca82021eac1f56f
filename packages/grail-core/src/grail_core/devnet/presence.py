"""Whether a development network is up, and which process runs it.

Its relay must answer, and the process that the folder's file names must hold this very folder's lock: a killed process leaves
the file behind, and a copy of a folder has the file, the key and the port of its original.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

from grail_core.bounded_http import get
from grail_core.devnet.folder import Description, DevnetFolder, read_description, read_roles, seed_of
from grail_core.devnet.network import beacon_key

_MOST_INFO_BYTES = 4096
_MOST_LOCK_BYTES = 4096
_PATIENCE_S = 2.0


def is_up(folder: DevnetFolder, description: Description | None = None) -> bool:
    """Does a relay of this network's key answer at its port, and is it this folder's?

    Args:
        description: another one than the folder's.
    """
    import httpx  # slow to import

    if holder_of(folder.lock) is None:
        return False
    described = description or read_description(folder)
    try:
        answer = get(f"{described.beacon_url}/info", most=_MOST_INFO_BYTES, seconds=_PATIENCE_S, trust_env=False)
        return bool(json.loads(answer.body)["public_key"] == beacon_key(seed_of(folder)).public_key.hex())
    except (httpx.HTTPError, ValueError, KeyError, TypeError, RecursionError):
        return False


def process_of(folder: DevnetFolder) -> int | None:
    """The process that runs it, None where it is not up."""
    return holder_of(folder.lock) if is_up(folder) else None


def holder_of(lock: Path) -> int | None:
    """The process that a lock file (`only_process`) names, once it is the one that holds the lock; else None."""
    try:
        with lock.open("rb") as file:
            pid = json.loads(file.read(_MOST_LOCK_BYTES))["pid"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None  # nobody ever held it, or it is being written this moment
    if type(pid) is not int or pid <= 1:  # 0 and less are many processes, to whoever ends one
        return None
    try:
        held = _holds(pid, lock.parent)
        if held is None:
            held = not is_free(lock)
    except OSError:
        return None
    return pid if held else None


def running_roles(folder: DevnetFolder) -> dict[str, int]:
    """The participants whose state a process holds now, by name with its process: `down` does not end them."""
    found = {}
    for name in read_roles(folder):
        for lock in (folder.root / "state" / name).glob("*/*/lock"):
            pid = holder_of(lock)
            if pid is not None:
                found[name] = pid
    return found


def is_free(lock: Path) -> bool:
    """Does nobody hold the lock of `only_process`?"""
    descriptor = os.open(lock.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


def _holds(pid: int, folder: Path) -> bool | None:
    """Does this process have the folder open and locked? None: the system does not tell (no /proc, another user's process)."""
    if not os.path.isdir("/proc/self/fdinfo"):
        return None
    wanted = os.stat(folder)
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except PermissionError:
        return None
    except OSError:
        return False  # there is no such process
    for name in names:
        try:
            if os.path.samestat(os.stat(f"/proc/{pid}/fd/{name}"), wanted):
                with open(f"/proc/{pid}/fdinfo/{name}") as info:
                    if any(line.startswith("lock:") and "FLOCK" in line for line in info):
                        return True
        except OSError:
            continue  # it was closed meanwhile
    return False
