"""Hostile window files by the thousand, each opened as a role opens a stranger's: what became of it, how soon, at what cost.

    hatch run mutants --count 10000 --json

First every file of `hostile_parquet` and `hostile_containers`, then mutants of an honest file and of those. A file is a
function of the seed and its number (but for two that Arrow encrypts, whose keys it draws). Every end has to be typed, no named
file may be opened, and everything that a file takes counts, start and end of its child included: at most 200 ms of a processor
a try, and less than 1 GiB of memory in all processes together. A file that took longer is opened twice more and its least time
counts. The exit code is 1 if any of this does not hold. Seconds of the wall are reported alone: what else the machine does is
not a file's fault.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from grail_core.errors import GrailError
from grail_core.files.confined.opening import Confined, ConfinementError, Spent
from grail_core.files.window_file import WindowFileError, write_window_file
from grail_core.protocol.types import Signature
from tooling.adversaries.hostile_containers import containers
from tooling.adversaries.hostile_parquet import bombs, footers_that_end_a_process
from tooling.adversaries.parquet_mutants import mutant, mutant_of_any
from tooling.testing.window_files import made_header, made_rows

MAX_SECONDS_A_TRY = 0.2
MAX_BYTES = 1 << 30
SHARE_OF_HONEST_MUTANTS = 0.7
TRIES = 3
"""Of a file that took too long: the least time of so many counts."""


class Corpus:
    """Files by number: `named` first, then mutants. `data` is an honest file of one row group."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._honest = write_window_file(made_header(2), Signature(b"\x08" * 64), made_rows(seed, 2, 40))
        self.named = footers_that_end_a_process(self._honest) | bombs(self._honest) | containers(self._honest)
        self._names = list(self.named)
        self._to_change = [name for name in self._names if not name.startswith("encrypted")]  # these differ from run to run

    def name(self, number: int) -> str:
        return self._names[number] if number < len(self._names) else f"mutant {number}"

    def __getitem__(self, number: int) -> bytes:
        if number < len(self._names):
            return self.named[self._names[number]]
        rng = random.Random(f"{self._seed}/corpus/{number}")
        if rng.random() < SHARE_OF_HONEST_MUTANTS:
            return mutant(self._honest, self._seed, number)
        return mutant_of_any(self.named[rng.choice(self._to_change)], self._seed, number)


@dataclass
class Outcomes:
    """What became of all files. `faults` say which ended otherwise than they had to; there has to be none."""

    count: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)  # which took too long in every try
    seconds: list[float] = field(default_factory=list)  # wall time of a try, one a file: the least of its tries; reported alone
    processor_seconds: float = 0.0  # most of one child
    child_bytes: int = 0  # most of one child: its own, its output and its input
    parent_bytes: int = 0  # most of this process
    children: int = 1

    @property
    def bytes_in_all(self) -> int:
        return self.parent_bytes + self.children * self.child_bytes

    @property
    def bad(self) -> bool:
        return bool(self.faults or self.slow) or self.bytes_in_all >= MAX_BYTES


def open_corpus(corpus: Corpus, numbers: range, children: int = 1) -> Outcomes:
    """Open these files of the corpus, each confined, `children` at a time."""
    found = Outcomes(len(numbers), children=children)
    tried = threading.local()  # a child is observed by the thread that waited for it

    def observe(spent: Spent) -> None:
        tried.spent.append(spent)

    def one(number: int) -> None:
        data, name = corpus[number], corpus.name(number)
        least = busy = float("inf")
        for _ in range(TRIES):
            tried.spent = []
            started = time.monotonic()
            end, reason = _end(confined, data)
            least = min(least, (time.monotonic() - started) / max(1, len(tried.spent)))
            busy = min(busy, max((child.processor_seconds for child in tried.spent), default=0.0))
            if busy <= MAX_SECONDS_A_TRY:
                break
        spent: list[Spent] = tried.spent
        with lock:
            found.ends[end] += 1
            found.reasons[" ".join(reason.split()[:4])] += bool(reason)
            found.seconds.append(least)
            for child in spent:
                found.processor_seconds = max(found.processor_seconds, child.processor_seconds)
                found.child_bytes = max(found.child_bytes, child.peak_bytes + child.output_bytes + len(data))
            if end not in ("opened", "refused") or (end == "opened" and name in corpus.named):
                found.faults.append(f"{name}: {end} {reason}")
            found.faults += [f"{name}: {child.outcome}" for child in spent if child.outcome not in ("done", "refused")]
            if busy > MAX_SECONDS_A_TRY:  # of a processor: how busy the machine is says nothing of a file
                found.slow.append(f"{name}: {busy:.2f} s a try")

    lock = threading.Lock()
    with Confined(children=children, observe=observe) as confined, ThreadPoolExecutor(children) as pool:
        for _ in pool.map(one, numbers):
            pass
    found.parent_bytes = _peak_bytes()
    return found


def _end(confined: Confined, data: bytes) -> tuple[str, str]:
    """How a file ended, and why."""
    try:
        confined.open_window_file(data)
    except WindowFileError as error:
        return "refused", error.what
    except ConfinementError as error:
        return "put down to this machine", error.what
    except GrailError as error:
        return f"another error, {type(error).__name__}", error.what
    return "opened", ""


def _peak_bytes() -> int:
    """The most memory of this process so far."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def main(arguments: list[str] | None = None) -> int:
    """Open, count, print."""
    parser = argparse.ArgumentParser(prog="hatch run mutants", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--children", type=int, default=1, help="opened at a time")
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    corpus = Corpus(options.seed)
    found = open_corpus(corpus, range(options.count), options.children)
    times = sorted(found.seconds)
    value = {
        "count": found.count,
        "named": min(len(corpus.named), found.count),
        "seed": options.seed,
        "ends": dict(found.ends.most_common()),
        "reasons": len(found.reasons),
        "faults": found.faults[:100],
        "slow": found.slow[:100],
        "try_ms_median": round(1e3 * times[len(times) // 2], 1),
        "try_ms_slowest": round(1e3 * times[-1], 1),
        "child_processor_ms_slowest": round(1e3 * found.processor_seconds, 1),
        "child_mib": round(found.child_bytes / 2**20, 1),
        "parent_mib": round(found.parent_bytes / 2**20, 1),
        "mib_in_all": round(found.bytes_in_all / 2**20, 1),
        "load_average": round(os.getloadavg()[0], 1),
        "seconds": round(time.monotonic() - started, 1),
    }
    print(json.dumps(value) if options.as_json else "\n".join(f"{name}: {one}" for name, one in value.items()))
    return int(found.bad)


if __name__ == "__main__":
    sys.exit(main())
