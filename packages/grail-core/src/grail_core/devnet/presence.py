"""Whether a development network is up, and which process runs it: asked of its relay, whatever a killed process left behind."""

from __future__ import annotations

import json

from grail_core.bounded_http import get
from grail_core.devnet.folder import Description, DevnetFolder, read_description, seed_of
from grail_core.devnet.network import beacon_key

_MOST_INFO_BYTES = 4096
_MOST_LOCK_BYTES = 4096
_PATIENCE_S = 2.0


def is_up(folder: DevnetFolder, description: Description | None = None) -> bool:
    """Does a relay of this network's key answer at its port?

    Args:
        description: another one than the folder's.
    """
    import httpx  # slow to import

    described = description or read_description(folder)
    try:
        answer = get(f"{described.beacon_url}/info", most=_MOST_INFO_BYTES, seconds=_PATIENCE_S, trust_env=False)
        return bool(json.loads(answer.body)["public_key"] == beacon_key(seed_of(folder)).public_key.hex())
    except (httpx.HTTPError, ValueError, KeyError, TypeError, RecursionError):
        return False


def process_of(folder: DevnetFolder) -> int | None:
    """The process that runs it, None where it is not up."""
    if not is_up(folder):
        return None
    try:
        with folder.lock.open("rb") as file:
            pid = json.loads(file.read(_MOST_LOCK_BYTES))["pid"]
        return pid if type(pid) is int and pid > 1 else None  # 0 and less are many processes, to whoever ends one
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None  # it is being written this moment
