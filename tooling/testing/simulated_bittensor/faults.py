"""What is wrong with which node, in a small file beside the chain's, so that a test breaks nodes of other processes too.

The file is read again for every request. It is JSON, `{"serial": n, "endpoints": {name: {fault: value}}, "tempos": [[block,
tempo]]}`; the name of an endpoint is the host of its URL.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grail_core.disk import write_atomically


@dataclass(frozen=True)
class Faults:
    """Of one node; the default is a node without any."""

    head_at: int | None = None  # its best block stands here
    finality_at: int | None = None  # its finalised block stands here
    behind: int = 0  # blocks by which it lags
    ahead: int = 0  # blocks by which the numbers that it tells are further than the blocks that it has
    invents: bool = False  # of these it gives hashes too, and the time that it is now
    says: int | None = None  # its best block, whatever it has
    finality_above: int | None = None  # its finalised block lies so far above its best one
    state: str | None = None  # what it answers where state is asked for: "none", "garbage" or "trap"
    unreachable: bool = False  # no connection
    fails: int = 0  # so many requests of each process fail, counted from the last change of the file
    silent: bool = False  # takes requests and never answers
    throttled: int | None = None  # refuses traffic and asks to be left alone for so many seconds
    forked: bool = False  # its blocks that are not final are others than the network's
    other_chain: bool = False  # it is a node of another chain altogether
    loses: bool = False  # a submission is answered with success, and is in no block
    refuses: str | None = None  # a submission is refused with this error of the chain
    keeps_state: int | None = None  # blocks for which it has state, counted from its head; None: an archive
    keeps_bodies: int | None = None  # likewise, blocks themselves


@dataclass(frozen=True)
class Nodes:
    """The whole file."""

    serial: int = 0
    endpoints: Mapping[str, Faults] = field(default_factory=dict)
    tempos: tuple[tuple[int, int], ...] = ((0, 360),)  # from which block on which tempo holds

    def of(self, endpoint: str) -> Faults:
        return self.endpoints.get(endpoint, Faults())


class FaultFile:
    """The faults beside a chain's file. Any process may write, the last one wins."""

    def __init__(self, chain: Path) -> None:
        self.path = chain.with_name(f"{chain.name}.nodes.json")
        self._known: tuple[tuple[int, int, int], Nodes] | None = None

    def read(self) -> Nodes:
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return Nodes()
        key = (status.st_ino, status.st_mtime_ns, status.st_size)
        if self._known is None or self._known[0] != key:
            value = json.loads(self.path.read_bytes())
            endpoints = {name: Faults(**faults) for name, faults in value["endpoints"].items()}
            self._known = key, Nodes(value["serial"], endpoints, tuple((block, tempo) for block, tempo in value["tempos"]))
        return self._known[1]

    def set(self, endpoint: str, **faults: Any) -> None:
        """Give a node these faults and no others; without any it is whole again."""
        nodes = self.read()
        self._write(dataclasses.replace(nodes, endpoints={**nodes.endpoints, endpoint: Faults(**faults)}))

    def clear(self) -> None:
        """Every node is whole again."""
        self._write(dataclasses.replace(self.read(), endpoints={}))

    def set_tempo(self, block: int, tempo: int) -> None:
        """From this block on, later than any before, the subnet's tempo is another one."""
        nodes = self.read()
        self._write(dataclasses.replace(nodes, tempos=(*nodes.tempos, (block, tempo))))

    def _write(self, nodes: Nodes) -> None:
        value = dataclasses.asdict(nodes) | {"serial": nodes.serial + 1}
        write_atomically(self.path, json.dumps(value).encode())
