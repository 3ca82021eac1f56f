"""What a miner of gradient work must not lose: its feedback, and the round that it has sealed or is about to.

    {state}/{hotkey}/gradient/
        journal.json                      names the files that count, with their SHA-256, and the last round that is settled;
                                          replaced in one step
        feedback-{T}.safetensors          e after the round T
        after-{T}.safetensors             e′ of the pending round, which becomes the feedback once its file counts
        steps-{T}.safetensors             the inner states of the pending round, for its opening
        update-{T}.bin, seal-{T}.json     what is revealed, and what was promised

Files come first and the journal last, so a miner that is killed anywhere has either all of a round or nothing of it: it never
makes a second file for a round that it may have sealed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from grail_core.disk import storage_errors, write_atomically
from grail_core.errors import DamagedStateError
from grail_core.protocol.reading import Node
from grail_core.protocol.types import Digest, Window
from grail_core.protocol.windows import require_window
from grail_core.state_file import read_state, write_state

Arrays = dict[str, npt.NDArray[np.float32]]

JOURNAL: Final = "journal.json"
_RECOVERY: Final = "move the folder away: the miner begins with no feedback, which is allowed and costs a little of its score"


@dataclass(frozen=True)
class Feedback:
    """What compression has left unsent. `round`: whose file left it; `root`: its commitment."""

    round: Window
    root: Digest
    error: Arrays


@dataclass(frozen=True)
class Pending:
    """A round that is trained and whose files are fixed. `steps`: inner states by "{name of state}/{step}/{tensor}"."""

    round: Window
    seal: bytes
    update: bytes
    steps: Arrays
    after: Feedback


class GradientState:
    """One hotkey's. Errors of every method: StorageError, DiskFullError, DamagedStateError (with what can be done about it)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def feedback(self) -> Feedback | None:
        """None: a new start."""
        named = self._journal().get("feedback")
        return None if named is None else self._read_feedback(Node(named, "$journal.feedback"))

    def pending(self) -> Pending | None:
        """The round that was fixed last, until it is settled."""
        journal = self._journal()
        named = journal.get("pending")
        if named is None:
            self._tidy(journal)  # whoever was killed behind the journal of a settled round left its files
            return None
        m = Node(named, "$journal.pending").members("round", "seal", "update", "steps", "after")
        return Pending(
            round=_round(m["round"]),
            seal=self._read(m["seal"]),
            update=self._read(m["update"]),
            steps=self._arrays(m["steps"]),
            after=self._read_feedback(m["after"]),
        )

    def keep(self, pending: Pending) -> None:
        """Before anything of the round is stored anywhere else. An earlier pending round is forgotten, its feedback with it."""
        at = pending.round
        named = {
            "round": at,
            "seal": self._write(f"seal-{at}.json", pending.seal),
            "update": self._write(f"update-{at}.bin", pending.update),
            "steps": self._write(f"steps-{at}.safetensors", save(pending.steps)),
            "after": self._write_feedback(f"after-{at}.safetensors", pending.after),
        }
        self._replace({**self._journal(), "pending": named})

    def settled(self) -> Window | None:
        """The last round of which it is known whether its file counted."""
        said = self._journal()["settled"]
        return None if said is None else _round(Node(said, "$journal.settled"))

    def settle(self, round: Window, *, counts: bool) -> None:
        """The pending round is over. `counts`: its file was in time, so its feedback is what the next one begins with; else the
        next one begins with what this one did. A second call, or one for another round, changes nothing."""
        journal = self._journal()
        named = journal.get("pending")
        if named is None or named["round"] != round:
            return
        self._replace({"feedback": named["after"] if counts else journal["feedback"], "pending": None, "settled": round})

    def forget_feedback(self) -> None:
        """Begin anew: what is here is not what the others saw last."""
        self._replace({**self._journal(), "feedback": None})

    # --- files ----------------------------------------------------------------------------------------------------------

    def _journal(self) -> dict[str, Any]:
        path = self.folder / JOURNAL
        value = read_state(path, what="the journal of gradient work", recovery=_RECOVERY)
        if value is None:
            return {"feedback": None, "pending": None, "settled": None}
        if value.keys() != {"feedback", "pending", "settled"}:
            raise DamagedStateError("the journal of gradient work is another program's", where=str(path), hint=_RECOVERY)
        return value

    def _replace(self, journal: dict[str, Any]) -> None:
        write_state(self.folder / JOURNAL, journal)
        self._tidy(journal)

    def _tidy(self, journal: dict[str, Any]) -> None:
        """Remove what the journal does not name."""
        named = {JOURNAL, *_names(journal)}
        with storage_errors(self.folder):
            for path in self.folder.iterdir() if self.folder.is_dir() else ():
                if path.is_file() and path.name not in named and not path.name.startswith("."):
                    path.unlink()

    def _write(self, name: str, data: bytes) -> dict[str, Any]:
        write_atomically(self.folder / name, data)
        return {"file": name, "sha256": hashlib.sha256(data).hexdigest()}

    def _read(self, node: Node) -> bytes:
        m = node.members("file", "sha256")
        path = self.folder / m["file"].text(64)
        if not path.is_file():
            raise DamagedStateError("a file of gradient work is gone", where=str(path), hint=_RECOVERY)
        with storage_errors(path):
            data = path.read_bytes()
        if hashlib.sha256(data).digest() != m["sha256"].raw(32):
            raise DamagedStateError("a file of gradient work is not what was written", where=str(path), hint=_RECOVERY)
        return data

    def _arrays(self, node: Node) -> Arrays:
        try:
            arrays: Arrays = load(self._read(node))
        except SafetensorError as error:
            raise DamagedStateError(f"no safetensors: {error}", where=str(self.folder), hint=_RECOVERY) from error
        return arrays

    def _write_feedback(self, name: str, feedback: Feedback) -> dict[str, Any]:
        return {
            "round": feedback.round,
            "root": feedback.root.hex(),
            "error": self._write(name, save(feedback.error)),
        }

    def _read_feedback(self, node: Node) -> Feedback:
        m = node.members("round", "root", "error")
        return Feedback(_round(m["round"]), Digest(m["root"].raw(32)), self._arrays(m["error"]))


def _round(node: Node) -> Window:
    return node.build(lambda: require_window(node.integer()))


def _names(value: object) -> set[str]:
    """Every file that a journal names."""
    if not isinstance(value, Mapping):
        return set()
    own = {str(value["file"])} if "file" in value else set()
    return own.union(*(_names(item) for item in value.values()))
