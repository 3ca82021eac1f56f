"""X1 and X2: window files that attack whoever opens them, each through the confined opening that roles use.

A file is caught if it is refused with a typed error, by one child that took no more memory than the limits of a page and no
more than two seconds; it is accepted if it comes back as a window file. After all of them the same process opens an
honest file, and the honest twins are the extremes: one group of one-token answers, and as many bytes as a file may have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from grail_core.files.confined.opening import Confined, ConfinementError, Spent
from grail_core.files.window_file import WindowFileError, write_window_file
from grail_core.protocol import RolloutRecord
from grail_core.protocol.constants import ROLLOUTS_PER_PROBLEM
from grail_core.protocol.types import Signature
from tooling.adversaries.hostile_parquet import bombs, footers_that_end_a_process
from tooling.adversaries.rows import Row, Try
from tooling.testing.window_files import made_header, made_rows

MAX_SECONDS = 2.0
MAX_PEAK_BYTES = 256 << 20
_LARGEST_ROWS, _LARGEST_TOKENS = 3_120, 8_192  # 345 MiB
_QUICK_ROWS = 160
_SIGNATURE = Signature(b"\x08" * 64)


def run_x1(*, seed: int = 0, quick: bool = False) -> dict[str, Any]:
    """Footers that end a library's process."""
    return _run(Row("X1", "file"), footers_that_end_a_process, seed, quick)


def run_x2(*, seed: int = 0, quick: bool = False) -> dict[str, Any]:
    """Small files that claim or decode to gigabytes."""
    return _run(Row("X2", "file"), bombs, seed, quick)


def _run(row: Row, hostile: Callable[[bytes], Mapping[str, bytes]], seed: int, quick: bool) -> dict[str, Any]:
    spent: list[Spent] = []
    honest = write_window_file(made_header(2), _SIGNATURE, made_rows(seed, 2, 40))
    with Confined(observe=spent.append) as confined:
        for name, data in hostile(honest).items():
            spent.clear()
            row.tries.append(_tried(name, data, confined, spent))
        smallest = write_window_file(made_header(1), _SIGNATURE, made_rows(seed, 1, 1))
        rows = _QUICK_ROWS if quick else _LARGEST_ROWS
        largest = write_window_file(made_header(rows // ROLLOUTS_PER_PROBLEM), _SIGNATURE, longest_rows(rows, seed))
        for data in (honest, smallest, largest):
            row.honest_tries += 1
            try:
                confined.open_window_file(data)
            except WindowFileError:
                row.honest_false_rejects += 1
    return row.to_json()


def _tried(name: str, data: bytes, confined: Confined, spent: list[Spent]) -> Try:
    try:
        confined.open_window_file(data)
    except WindowFileError as error:
        within = all(one.processor_seconds <= MAX_SECONDS and one.peak_bytes <= MAX_PEAK_BYTES for one in spent)
        refused = within and all(one.outcome == "refused" for one in spent)
        return Try(name, not refused, "file" if refused else "", error.what if refused else f"at what cost: {spent}")
    except ConfinementError as error:
        return Try(name, True, "", f"put down to the machine: {error.what}")
    return Try(name, True, "", "opened")


def longest_rows(rows: int, seed: int) -> list[RolloutRecord]:
    """Answers of the longest kind, whose numbers compress no better than a model's."""
    rng = np.random.default_rng(seed)
    prompt = 300
    return [
        RolloutRecord(
            group=index // ROLLOUTS_PER_PROBLEM,
            rollout=index % ROLLOUTS_PER_PROBLEM,
            tokens=rng.integers(0, 151_000, prompt + _LARGEST_TOKENS).astype(np.int32),
            prompt_length=prompt,
            logprobs=-rng.exponential(0.5, _LARGEST_TOKENS).astype(np.float32) - np.float32(1e-6),
            sketches=np.rint(4096 * rng.normal(size=4 * (_LARGEST_TOKENS + 1))).clip(-32767, 32767).astype("<i2").tobytes(),
            reward=float(rng.random()),
            success=bool(rng.integers(2)),
        )
        for index in range(rows)
    ]


ATTACKS = {"X1": run_x1, "X2": run_x2}
"""See `tooling.adversaries`."""
