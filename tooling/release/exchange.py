"""What one version writes and its neighbour has to read: a manifest, a window file and a verdict, signed.

    python -m tooling.release.exchange write FOLDER      python -m tooling.release.exchange read FOLDER

Run with the wheels of a mixture to import from; prints, as JSON, which versions it ran with and what it wrote or found. The
values are the kit's plain window, so that neither needs a model, a chain or a store.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Callable
from pathlib import Path

import grail_core
from grail_core.files.window_file import read_window_file, write_window_file
from grail_core.protocol import SignedVerdict
from grail_core.protocol.constants import PROTOCOL_VERSION
from grail_core.protocol.manifest import parse
from tooling.testing.bodies import accepted_body
from tooling.testing.plain_window import MINERS, network, rollouts, window_context, window_file
from tooling.testing.wheels import PACKAGES

GROUPS = (0, 1)


def write(folder: Path) -> None:
    """Three files, as a trainer, a miner and a validator put them."""
    context, miner = window_context(), MINERS[0]
    validator = MINERS[1]
    body = accepted_body(90, [miner.hotkey], context.network_id)
    verdict = SignedVerdict(body, validator.hotkey, validator.sign(SignedVerdict.message(body, validator.hotkey)))
    (folder / "manifest").write_bytes(context.manifest.to_bytes())
    (folder / "window").write_bytes(window_file(context, miner, rollouts(context, miner, GROUPS)))
    (folder / "verdict").write_bytes(verdict.encode())


def read(folder: Path) -> None:
    """Each is decoded and verified; window file and verdict are the same bytes written again. Raises what the readers raise."""
    raw = {name: (folder / name).read_bytes() for name in ("manifest", "window", "verdict")}
    network_id = window_context().network_id
    parse(raw["manifest"], trainer_hotkey=network().trainer_hotkey, network_id=network_id)
    window = read_window_file(raw["window"])
    verdict = SignedVerdict.decode(raw["verdict"])
    if not verdict.verify(network_id):
        raise ValueError("the verdict's signature does not hold")
    again = {
        "window": write_window_file(window.header, window.signature, list(window.table.records())),
        "verdict": verdict.encode(),
    }
    for name, data in again.items():
        if raw[name] != data:
            raise ValueError(f"{name}: written again it has other bytes")


def main(action: str, folder: Path) -> None:
    """Do it and say with what."""
    actions: dict[str, Callable[[Path], None]] = {"write": write, "read": read}
    actions[action](folder)
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    print(
        json.dumps(
            {"protocol_version": PROTOCOL_VERSION, "imported": grail_core.__version__, "versions": versions, "digests": digests}
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
