"""Wrong keys: wallets that are not there, damaged, locked, of another kind, or of somebody who may not do this."""

from __future__ import annotations

import shutil

from tests.wrong_steps.steps import Before, Place, Step
from tests.wrong_steps.with_settings import MINER, TRAINER, VALIDATOR


def hotkey(content: bytes | None = None, *, keep: int | None = None) -> Before:
    """A copy of the wallets in which the miner's hotkey holds something else, or its first `keep` bytes."""

    def prepare(place: Place) -> None:
        wallets = place.folder / "wallets"
        shutil.copytree(place.network.root / "wallets", wallets)
        place.settings["BT_WALLET_PATH"] = str(wallets)
        path = wallets / "cold" / "hotkeys" / "miner-0"
        path.write_bytes(path.read_bytes()[:keep] if content is None else content)

    return prepare


def stranger(place: Place) -> None:
    """A hotkey that nobody registered."""
    from grail_core.keys import make_hotkey

    place.settings["BT_WALLET_PATH"] = str(place.folder / "wallets")
    make_hotkey(place.folder / "wallets", "cold", "miner-0")


STEPS = (
    Step("no such wallet", MINER, 3, ("no such wallet", "BT_WALLET_COLD"), {"BT_WALLET_COLD": "nobody"}),
    Step("no such hotkey", MINER, 3, ("no such hotkey", "miner-0"), {"BT_WALLET_HOT": "nobody"}),
    Step("a wallet's name with a slash", MINER, 3, ("BT_WALLET_HOT",), {"BT_WALLET_HOT": "../miner-0"}),
    Step("a hotkey that is cut short", MINER, 3, ("damaged", "backup", "regen-hotkey"), before=hotkey(keep=40)),
    Step("a hotkey that is empty", MINER, 3, ("damaged", "backup"), before=hotkey(b"")),
    Step("a hotkey that is noise", MINER, 3, ("damaged", "backup"), before=hotkey(b"\x00\xff" * 300)),
    Step("the public part of a hotkey", MINER, 3, ("cannot sign",), {"BT_WALLET_HOT": "miner-0pub.txt"}),
    Step("a hotkey that is encrypted", MINER, 3, ("encrypted", "BT_PW_"), before=hotkey(b"$NACL" + bytes(200))),
    Step("a hotkey that nobody registered", MINER, 4, ("not registered", "grail devnet add"), before=stranger),
    Step("a validator without a permit", VALIDATOR, 4, ("no validator permit", "grail devnet fund"), role="miner-0"),
    Step("another hotkey than the trainer's", TRAINER, 3, ("not the trainer", "BT_WALLET_HOT"), role="miner-0"),
)
