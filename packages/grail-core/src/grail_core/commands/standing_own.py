"""What a hotkey has put into its own bucket: a miner's files and seals, a validator's verdicts, the trainer's checkpoints."""

from __future__ import annotations

from typing import Final

from grail_core.chain.base import Neuron
from grail_core.commands.network_view import MAX_WINDOWS_BACK, READ_SECONDS, NetworkView
from grail_core.commands.standing import StoredFile
from grail_core.errors import ChainError, GrailError
from grail_core.files.verdicts import RefusedVerdictError
from grail_core.keys import ss58
from grail_core.protocol import WindowTimes
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.types import Window
from grail_core.storage.layout import opening_key, seal_key, update_key, window_key
from grail_core.storage.time_limits import at_most

MAX_FILE_WINDOWS: Final = 24
"""Of whose files this hotkey's bucket is asked."""


def files_of(view: NetworkView, neuron: Neuron | None, windows: int) -> tuple[tuple[StoredFile, ...], str]:
    """Of the newest windows, the present one first."""
    if neuron is None:
        return (), "it has no UID, so nobody reads its bucket"
    found: list[StoredFile] = []
    try:
        store, address = view.bucket(neuron), ss58(neuron.hotkey)
        for window in view.windows_back(most=min(windows + 1, MAX_FILE_WINDOWS)):
            with at_most(READ_SECONDS):
                seal = store.head(seal_key(address, window))
                file = store.head(window_key(address, window))
                if file is None and seal is not None:  # a round's file is its update, which the opening follows
                    file = store.head(update_key(address, window)) or store.head(opening_key(address, window))
            stored = None if seal is None else seal.stored_at_ms
            found.append(StoredFile(window, None if file is None else file.size, stored, _late(view, window, stored)))
    except GrailError as error:
        return tuple(found), error.what
    return tuple(found), ""


def _late(view: NetworkView, window: Window, stored_at_ms: int | None) -> int | None:
    deadline = WindowTimes(window, view.params).deadline_block
    if stored_at_ms is None or deadline > view.block:
        return None
    try:
        return stored_at_ms - view.chain.block(deadline).timestamp_ms
    except ChainError:
        return None  # a node that has thrown the block away


def published_by(view: NetworkView, neuron: Neuron | None, role: str, windows: int) -> list[str]:
    """What a validator or the trainer has published itself, one line each; nothing of a miner."""
    if role == "trainer":
        return _published(view)
    if role != "validator" or neuron is None:
        return []
    lines = []
    if neuron.last_update > neuron.registered_at:
        lines.append(f"set weights, or committed to some, in block {neuron.last_update}, {view.block - neuron.last_update} ago")
    else:
        lines.append("has never set weights since it was registered")
    try:
        store = view.bucket(neuron)
        judged: list[str] = []
        refused = ""
        for window in view.ended_windows_back():
            if len(judged) == windows:
                break
            try:
                verdict = view.verdict(store, window, neuron.hotkey) if view.has_verdict(store, window) else None
            except RefusedVerdictError as error:
                verdict, refused = None, refused or f"what lies at window {window} is none: {error.what}"
            if verdict is not None:
                judged.append(f"{window} {verdict.body.status.value}")
        lines.append(f"verdicts: {', '.join(judged)}" if judged else f"no verdict of the last {MAX_WINDOWS_BACK} windows")
        lines += [refused] if refused else []
    except GrailError as error:
        lines.append(f"its own verdicts cannot be read: {error.what}")
    return lines


def _published(view: NetworkView) -> list[str]:
    try:
        head = view.checkpoints.view().head
    except GrailError as error:
        return [f"its checkpoints cannot be read: {error.what}"]
    if head is None:
        return ["it has published no checkpoint"]
    behind = (view.window - head.window) // WINDOW_LENGTH
    return [
        f"checkpoint {head.sequence}, {head.digest.hex()}, made of window {head.window} ({windows_in_words(behind)} ago), "
        f"in force from window {head.valid_from}"
    ]


def windows_in_words(number: int) -> str:
    """`1 window`, `2 windows`."""
    return f"{number} window" + ("" if number == 1 else "s")
