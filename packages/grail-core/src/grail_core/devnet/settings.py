"""What a role of a network on one machine is told: its public settings, and how they are written for a shell, `.env` or JSON.

A role gets nothing that an operator would not set too. Where buckets are folders there is no secret among them: keys stay in
the wallets' files, which only their owner reads.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SHELL, DOTENV, JSON = "shell", "dotenv", "json"
FORMATS = (SHELL, DOTENV, JSON)


@dataclass(frozen=True)
class Places:
    """Where a network on one machine keeps what its roles share, and what is one role's own."""

    chain: Path
    network: Path
    wallets: Path
    cache: Path
    state: Path
    log: Path  # the role's events


def role_settings(name: str, places: Places, *, netuid: int, coldkey: str, beacon_url: str) -> dict[str, str]:
    """The settings of one participant but those of its bucket: its hotkey has its name."""
    return {
        "BT_NETWORK": "local",
        "BT_CHAIN_ENDPOINT": str(places.chain),
        "NETUID": str(netuid),
        "BT_WALLET_PATH": str(places.wallets),
        "BT_WALLET_COLD": coldkey,
        "BT_WALLET_HOT": name,
        "GRAIL_NETWORK": str(places.network),
        "GRAIL_BEACON_URLS": beacon_url,
        "GRAIL_CACHE_DIR": str(places.cache),
        "GRAIL_STATE_DIR": str(places.state),
        "GRAIL_LOG_FILE": str(places.log),
        "GRAIL_DEVICE": "cpu",  # whatever GPUs this machine has: a network on one machine is the same everywhere
        "GRAIL_PIPELINE_BACKEND": "hf",
    }


def folder_bucket(store: Path, name: str) -> dict[str, str]:
    """The settings of a bucket that is a folder."""
    return {"GRAIL_STORAGE_ROOT": str(store), "GRAIL_STORAGE_BUCKET": name}


def written(settings: Mapping[str, str], form: str) -> str:
    """Settings as text: lines for a shell (`export NAME='value'`), lines of a `.env` file, or one JSON object."""
    if form == JSON:
        return json.dumps(dict(settings), indent=1)
    if form == DOTENV:
        return "\n".join(f"{name}={_for_dotenv(value)}" for name, value in settings.items())
    return "\n".join(f"export {name}={_for_shell(value)}" for name, value in settings.items())


def _for_shell(value: str) -> str:
    return shlex.quote(value) if "'" in value else f"'{value}'"


def _for_dotenv(value: str) -> str:
    if "'" not in value:
        return f"'{value}'"
    return '"' + "".join(f"\\{char}" if char in '"\\$`' else char for char in value) + '"'
