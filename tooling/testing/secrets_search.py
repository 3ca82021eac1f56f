"""Looks for secrets where none may be: in files, in what processes print, in their arguments and in their environments.

A secret is looked for in every form that a program might write it in: as text, hex of either case, base64 of both alphabets,
a Python or JSON list of its bytes, and as it stands. What is compressed or encrypted is not seen through.
"""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

LEAST_BYTES = 8  # of a form: shorter ones are found by chance


def forms(secret: bytes) -> set[bytes]:
    """How this secret may stand somewhere."""
    plain = base64.b64encode(secret).rstrip(b"=")
    found = {
        secret,
        secret.hex().encode(),
        secret.hex().upper().encode(),
        plain,
        base64.urlsafe_b64encode(secret).rstrip(b"="),
        json.dumps(list(secret)).encode(),
        json.dumps(list(secret), separators=(",", ":")).encode(),
        repr(secret)[2:-1].encode(),
    }
    return {form for form in found if len(form) >= LEAST_BYTES}


@dataclass(frozen=True)
class Found:
    secret: str  # its name
    where: str


@dataclass(frozen=True)
class Secrets:
    """Secrets by name. No report repeats one."""

    by_name: Mapping[str, bytes]

    def inside(self, data: bytes) -> list[str]:
        """Names of the secrets that stand in these bytes."""
        return [name for name, secret in self.by_name.items() if any(form in data for form in forms(secret))]

    def in_files(self, root: Path, allowed: Callable[[Path], bool]) -> list[Found]:
        """In every file below a folder that may not hold any; names of files too."""
        found = []
        for path in sorted(root.rglob("*")):
            where = path.relative_to(root)
            if path.is_file() and not path.is_symlink() and not allowed(where):
                found += [Found(name, str(where)) for name in self.inside(path.read_bytes() + os.fsencode(where))]
        return found


@dataclass
class ProcessWatch:
    """Samples arguments and environments of all processes below this one, until the block ends.

    Every process is seen that lives longer than a sample takes; what is seen is kept once. `holders`: says of a process,
    by its depth below this one and its environment, whether secrets were given to it in its environment.
    """

    secrets: Secrets
    holders: Callable[[int, bytes], bool]
    found: set[Found] = field(default_factory=set)
    seen: dict[int, str] = field(default_factory=dict)  # command lines by process id
    given: set[str] = field(default_factory=set)  # names of secrets that a holder's environment was seen to have
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> ProcessWatch:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            self.sample()

    def sample(self) -> None:
        for pid, depth in below(os.getpid()):
            try:
                command, around = Path(f"/proc/{pid}/cmdline").read_bytes(), Path(f"/proc/{pid}/environ").read_bytes()
            except OSError:
                continue
            told = command.replace(b"\0", b" ").decode("utf-8", "replace")[:200]
            self.seen[pid] = told
            self.found |= {Found(name, f"arguments of {told}") for name in self.secrets.inside(command)}
            names = self.secrets.inside(around)
            if self.holders(depth, around):
                self.given |= set(names)
            else:
                self.found |= {Found(name, f"environment of {told}") for name in names}


def below(root: int) -> Iterator[tuple[int, int]]:
    """Process ids below a process, with how far."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        children.setdefault(parent, []).append(int(entry.parent.name))
    waiting: list[tuple[int, int]] = [(pid, 1) for pid in children.get(root, ())]
    while waiting:
        pid, depth = waiting.pop()
        yield pid, depth
        waiting += [(child, depth + 1) for child in children.get(pid, ())]


def told(found: Iterable[Found]) -> str:
    return "\n".join(sorted(f"{one.secret}: {one.where}" for one in found))
