"""Where everything lies in a participant's bucket. Every key of the project is made here.

The one exception is an object of a checkpoint: its key is part of what the trainer signs, so the manifest's own type makes
it, and its prefix stands here for those who list a bucket.
"""

from __future__ import annotations

import re
from typing import Final

from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.manifest import OBJECT_PREFIX
from grail_core.protocol.types import Window

ROOT: Final = "grail/"
WINDOW_PREFIX: Final = "grail/windows/"
SEAL_PREFIX: Final = "grail/seals/"
UPDATE_PREFIX: Final = "grail/updates/"
OPENING_PREFIX: Final = "grail/openings/"
FILE_PREFIX: Final = "grail/files/"
VERDICT_PREFIX: Final = "grail/verdicts/"
MANIFEST_PREFIX: Final = "grail/checkpoints/"
ANCHOR_PREFIX: Final = "grail/anchors/"
PROBE_KEY: Final = "grail/probe"  # written by whoever must not be able to
DOCTOR_PREFIX: Final = "grail/doctor"

_WINDOW_OF = re.compile(
    r"grail/(?:windows|seals|updates|openings)/[A-Za-z0-9]{1,64}-window-(0|[1-9][0-9]{0,15})\.(?:parquet|json|bin)"
    r"|grail/verdicts/(0|[1-9][0-9]{0,15})/[a-z]+\.[a-z]+"
)
_ANCHOR_WINDOW = re.compile(r"grail/anchors/(0|[1-9][0-9]{0,15})/(?:anchor\.json|[0-9a-f]{64})")
_MANIFEST_KEY = re.compile(r"grail/checkpoints/(0|[1-9][0-9]{0,15})/manifest\.json")


def window_key(hotkey_ss58: str, window: Window) -> str:
    """A miner's file of a window."""
    return f"{WINDOW_PREFIX}{hotkey_ss58}-window-{window}.parquet"


def seal_key(hotkey_ss58: str, window: Window) -> str:
    """A miner's seal of a window, or of the round that begins with it: what first sight reads."""
    return f"{SEAL_PREFIX}{hotkey_ss58}-window-{window}.json"


def update_key(hotkey_ss58: str, round_: Window) -> str:
    """A miner's compressed pseudo-gradient of a round."""
    return f"{UPDATE_PREFIX}{hotkey_ss58}-window-{round_}.bin"


def opening_key(hotkey_ss58: str, round_: Window) -> str:
    """What a miner opens of what its update of a round commits to."""
    return f"{OPENING_PREFIX}{hotkey_ss58}-window-{round_}.bin"


def file_key(content_digest: bytes) -> str:
    """A window file in a validator's bucket, named by its SHA-256: for other validators and the trainer."""
    return f"{FILE_PREFIX}{content_digest.hex()}"


def verdict_key(window: Window) -> str:
    """A validator's signed verdict of a window."""
    return f"{VERDICT_PREFIX}{window}/verdict.json"


def evidence_key(window: Window) -> str:
    """What a validator measured in a window."""
    return f"{VERDICT_PREFIX}{window}/evidence.parquet"


def manifest_key(valid_from: Window) -> str:
    """The manifest of the checkpoint that comes into force in a window."""
    return f"{MANIFEST_PREFIX}{valid_from}/manifest.json"


def valid_from_of_key(key: str) -> Window | None:
    """The window a manifest key is about, None for other keys."""
    match = _MANIFEST_KEY.fullmatch(key)
    return Window(int(match[1])) if match and int(match[1]) % WINDOW_LENGTH == 0 else None


def window_of_key(key: str) -> Window | None:
    """The window that a window file, a seal, an update, an opening or a part of a verdict is of, None for other keys."""
    match = _WINDOW_OF.fullmatch(key)
    return Window(int(match[1] or match[2])) if match else None


def is_object_key(key: str) -> bool:
    """Is this an object named by its content?"""
    return key.startswith(OBJECT_PREFIX) and len(key) == len(OBJECT_PREFIX) + 64


def training_log_key(window: Window) -> str:
    """What the trainer did with a window."""
    return f"grail/training/{window}/log.json"


def anchor_key(window: Window) -> str:
    """What the training state after a window consists of, signed by the trainer."""
    return f"{ANCHOR_PREFIX}{window}/anchor.json"


def anchor_part_key(window: Window, sha256: bytes) -> str:
    """A part of the training state after a window, named by its SHA-256."""
    return f"{ANCHOR_PREFIX}{window}/{sha256.hex()}"


def anchor_window_of_key(key: str) -> Window | None:
    """The window whose anchor a key belongs to, None for other keys."""
    match = _ANCHOR_WINDOW.fullmatch(key)
    return Window(int(match[1])) if match and int(match[1]) % WINDOW_LENGTH == 0 else None


def kind_of_key(key: str) -> str:
    """The part of the layout a key belongs to ("grail/windows"), for who counts what a bucket holds."""
    return "/".join(key.split("/")[:2]) if key.startswith(ROOT) else "(other)"
