"""What can be told to go wrong with a double: the one table, and a schedule of it.

A fault strikes at an occasion: a start of the process, a request of one kind to the server. `after` matching occasions pass
untouched, then it strikes `times` times (−1: always). A schedule may lie in a file, so that a double that dies of its fault
and is started again knows that it has died already.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from grail_core.disk import write_atomically

Occasion = Literal["start", "generate", "update", "label", "flush", "pause", "resume", "abort", "health", "info"]

KINDS: dict[str, tuple[tuple[Occasion, ...], str]] = {
    # of the process
    "dies_at_start": (("start",), "exits with status 1 before it listens"),
    "out_of_memory": (("start",), "prints CUDA's traceback and exits with status 1 before it listens"),
    "never_healthy": (("start",), "listens, and says 503 to every health check of this process's life"),
    # of an answer, whatever was asked
    "error_500": ((), "500, and nothing is done"),
    "loading_503": ((), "503, and nothing is done"),
    "redirect": ((), "307 to `value`, and nothing is done"),
    "half_response": ((), "done, but the connection breaks in the middle of the answer's body"),
    "no_response": ((), "done, but the connection breaks before the status line"),
    "invalid_json": ((), "done, but the answer's body is no JSON"),
    "huge_body": ((), "200, and a body that does not end (1 GiB announced, sent until the reader has had enough)"),
    "dies": ((), "SIGKILL when the request is read; the double in this process closes every connection and its port"),
    # of a generation
    "slow_first_token": (("generate",), "one row is not begun for `seconds`, or until `release` where that is 0"),
    "stall": (("generate",), "one row stops after `tokens` tokens; it can be aborted"),
    "dies_in_generation": (("generate",), "as `dies`, when one row has `tokens` tokens"),
    "clones": (("generate",), "every row of the request is drawn with seed 0"),
    "other_tokens": (("generate",), "one row comes with the tokens of another request"),
    "too_few_tokens": (("generate",), "one row lacks its last `tokens` tokens (at least one) and says `length`"),
    "foreign_ids": (("generate",), "one row's last token is outside the vocabulary"),
    "wrong_version": (("generate",), "one row says that `value` drew it"),
    # of a weight update
    "update_refused": (("update",), "nothing is applied, and the answer says so"),
    "update_torn": (("update",), "half of the tensors are applied, and the answer says that it failed"),
    "update_torn_silently": (("update",), "half of the tensors are applied, and the answer says that all are"),
    "update_then_error": (("update",), "all is applied, and the answer is 500"),
    "label_only": (("update",), "the answer and the label say that all is applied, and nothing is"),
    "dies_in_update": (("update",), "as `dies`, with half of the tensors applied"),
    "flush_refused": (("flush",), "the prefix cache is kept, and the answer says so"),
    "flush_ignored": (("flush",), "the prefix cache is kept, and the answer says that it is empty"),
    "label_refused": (("label",), "the label is not changed: 500"),
}
"""Kind → (occasions it is for; none named: any request), what happens."""

ANSWER_KINDS = frozenset(kind for kind, (occasions, _) in KINDS.items() if not occasions)


@dataclass(frozen=True)
class Fault:
    """One row of a schedule. `seconds`, `tokens` and `value` mean what `KINDS` says of the kind."""

    kind: str
    on: Occasion = "generate"  # of kinds that are for any request, and of those for several
    after: int = 0
    times: int = 1
    tokens: int = 0
    seconds: float = 0.0
    value: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no such fault: {self.kind!r}; there are {', '.join(KINDS)}")
        occasions = KINDS[self.kind][0]
        if occasions and self.on not in occasions:
            object.__setattr__(self, "on", occasions[0])


class Schedule:
    """The faults of one double. Safe from any thread.

    Args:
        faults: as they stand at first. file: where they are kept with how often each struck; read instead of `faults` where
            it exists.
    """

    def __init__(self, faults: Sequence[Fault] = (), file: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._file = file
        self._rows: list[tuple[Fault, int]] = [(fault, 0) for fault in faults]  # with how many occasions it has seen
        self.struck: list[Fault] = []
        if file is not None and file.exists():
            self._rows = [(Fault(**row["fault"]), row["seen"]) for row in json.loads(file.read_text(encoding="utf-8"))]

    @staticmethod
    def write(file: Path, faults: Sequence[Fault]) -> None:
        """A schedule's file, for a double of another process."""
        rows = [{"fault": asdict(fault), "seen": 0} for fault in faults]
        write_atomically(file, json.dumps(rows).encode())

    def add(self, *faults: Fault) -> None:
        with self._lock:
            self._rows += [(fault, 0) for fault in faults]
            self._keep()

    def clear(self) -> None:
        with self._lock:
            self._rows.clear()
            self._keep()

    def strike(self, occasion: Occasion) -> Fault | None:
        """The fault that strikes at this occasion, if any; the first of several."""
        with self._lock:
            found: Fault | None = None
            for index, (fault, seen) in enumerate(self._rows):
                if fault.on != occasion:
                    continue
                strikes = seen >= fault.after and (fault.times < 0 or seen < fault.after + fault.times)
                if strikes and found is not None:
                    continue  # its turn comes at the next occasion
                self._rows[index] = (fault, seen + 1)
                if strikes:
                    found = fault
            if found is not None:
                self.struck.append(found)
            self._keep()
            return found

    def _keep(self) -> None:
        if self._file is not None:
            rows = [{"fault": asdict(fault), "seen": seen} for fault, seen in self._rows]
            write_atomically(self._file, json.dumps(rows).encode())


def fault_of(row: dict[str, Any]) -> Fault:
    """A fault as JSON has it.

    Raises:
        ValueError: unknown fields, or no such kind.
    """
    known = {entry.name for entry in fields(Fault)}
    if unknown := sorted(row.keys() - known):
        raise ValueError(f"a fault has no {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    return Fault(**row)
