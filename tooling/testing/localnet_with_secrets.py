"""A localnet whose roles have what a real one has to keep: encrypted hotkeys, their password, and keys that write buckets.

    python -m tooling.testing.localnet_with_secrets FOLDER OPTIONS…

The command is `tooling.localnet` with these OPTIONS. Each role's settings name a wallet in FOLDER, which holds its hotkey
encrypted, and its environment has password, bucket keys and tokens: those of `secrets_of(FOLDER)`, and nobody else's.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import bittensor_core

from grail_core.keys import hotkey_file
from tooling.localnet.cli import cli
from tooling.localnet.plan import Layout
from tooling.localnet.processes import Processes
from tooling.localnet.setup import COLDKEY, TRAINER, derive_seed

SEED = 81
ROLES = (TRAINER, "validator-1", "miner-1")
PASSWORD = b"correct horse battery staple"
BUCKET_SECRET = b"f9e1d2c3b4a5968778695a4b3c2d1e0f"
NODE_TOKEN = b"node-token-0123456789abcdef"
API_KEY = b"wandb-0123456789abcdef0123456789abcdef"


def secrets_of() -> dict[str, bytes]:
    """By name: what may stand in wallets, in settings files, and in the environment of the role that it was given to alone."""
    found = {"password": PASSWORD, "bucket secret": BUCKET_SECRET, "node token": NODE_TOKEN, "API key": API_KEY}
    found["coldkey seed"] = derive_seed(SEED, "coldkey")
    for name in ROLES:
        found[f"hotkey seed of {name}"] = seed = derive_seed(SEED, "hotkey", name)
        keyfile = bittensor_core.serialized_keypair_to_keyfile_data(bittensor_core.Keypair.from_seed(seed))
        found[f"private key of {name}"] = bytes.fromhex(json.loads(bytes(keyfile))["privateKey"][2:])
    return found


def role_environment(wallets: Path, layout: Layout, name: str) -> dict[str, str]:
    """What an operator would give a role; its encrypted hotkey is made of the one that localnet made."""
    path = hotkey_file(wallets, COLDKEY, name)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        plain = hotkey_file(layout.wallets, COLDKEY, name).read_bytes()
        path.write_bytes(bytes(bittensor_core.encrypt_keyfile_data(plain, PASSWORD.decode())))
    variable = "BT_PW_" + str(path).replace(os.sep, "_").replace(".", "_").upper()
    return {
        "BT_WALLET_PATH": str(wallets),
        variable: PASSWORD.decode(),
        "R2_WRITE_ACCESS_KEY_ID": "writer",
        "R2_WRITE_SECRET_ACCESS_KEY": BUCKET_SECRET.decode(),
        "GRAIL_NODE_TOKEN": NODE_TOKEN.decode(),
        "WANDB_API_KEY": API_KEY.decode(),
    }


def main(folder: Path, *options: str) -> None:
    original = Processes.role_settings

    def with_secrets(self: Processes, name: str) -> dict[str, str]:
        return original(self, name) | role_environment(folder / "wallets", self._layout, name)

    Processes.role_settings = with_secrets  # type: ignore[method-assign]
    cli.main([*options, "--seed", str(SEED)])


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
