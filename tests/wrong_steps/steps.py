"""What a wrong step is, and the place that it is taken in: a small network with three wallets, all of whose settings are right.

A step changes one thing of that place and runs a command. The tables beside this module are rows of steps: what is wrong, the
exit code, and words that the one message must have.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from grail_core.keys import write_wallet
from tooling.testing.network import FIRST_WINDOW, Network

NAMES = ("trainer", "miner-0", "validator-0")


@dataclass
class Place:
    """Where one step is taken. `folder` is its working folder, empty but for what `before` puts there."""

    network: Network
    folder: Path
    settings: dict[str, str]

    def of(self, name: str) -> None:
        """Whose wallet and bucket are set: one of NAMES."""
        self.settings |= {"BT_WALLET_HOT": name, "GRAIL_STORAGE_BUCKET": f"bucket-{name}"}

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def network_file(self, **changed: object) -> None:
        """Settings name a copy of the network's parameters in which these members are others (None: left out)."""
        value = {**self.network.params.to_json(), **changed}
        kept = {name: member for name, member in value.items() if member is not None}
        self.settings["GRAIL_NETWORK"] = str(self.write("other.json", json.dumps(kept)))


Before = Callable[[Place], object]


@dataclass(frozen=True)
class Step:
    """`says`: what the message has, as parts. `role`: whose wallet and bucket."""

    name: str
    command: str
    code: int
    says: tuple[str, ...]
    changed: dict[str, str] = field(default_factory=dict)
    before: Before | None = None
    role: str = "miner-0"


def made_network(root: Path) -> Network:
    """With a checkpoint, everybody registered with a bucket, and three wallets."""
    network = Network(root, miners=1, validators=1)
    network.advance_to(FIRST_WINDOW + 5)
    (root / "network.json").write_text(json.dumps(network.params.to_json()))
    for name in NAMES:
        seed = hashlib.sha256(name.encode()).digest()
        write_wallet(root / "wallets", "cold", name, coldkey_seed=bytes(32), hotkey_seed=seed)
    return network


def right_settings(network: Network, folder: Path) -> dict[str, str]:
    root = network.root
    return {
        "HOME": str(folder),
        "BT_NETWORK": "local",
        "BT_CHAIN_ENDPOINT": str(root / "chain.sqlite"),
        "BT_WALLET_PATH": str(root / "wallets"),
        "BT_WALLET_COLD": "cold",
        "GRAIL_NETWORK": str(root / "network.json"),
        "GRAIL_STORAGE_ROOT": str(root / "buckets"),
        "GRAIL_BEACON_URLS": "http://127.0.0.1:9",  # nothing listens there
        "GRAIL_CACHE_DIR": str(folder / "cache"),
        "GRAIL_STATE_DIR": str(folder / "state"),
        "GRAIL_CHECKPOINT_CACHE_GIB": "1",
        "GRAIL_PIPELINE_BACKEND": "hf",
        "GRAIL_DEVICE": "cpu",
    }
