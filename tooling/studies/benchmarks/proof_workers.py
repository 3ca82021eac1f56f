"""`workers`: groups that one miner proves a second, in its own process, in threads, and in processes of their own.

    hatch run bench workers          a table
    hatch run bench workers --json   one flat object

Two models of random weights: a tiny one, whose group costs Python and kernels' starts alone, and one of 100 million parameters
in bf16, whose group costs arithmetic. On two cores without a GPU all that a second worker can win is a core; so `one` has both
cores for one model, `one.single` one of them. Wall time, medians over ROUNDS of as many groups as keep all workers busy
(`worst`: of the slowest round); the load of the machine is in the figures. Memory is that of both workers' processes: what lies
in it (`rss_mb`), and that less what they share (`pss_mb`: a page of two processes counts half).
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grail_core.checkpoints.loaded import PreparedCheckpoint
    from grail_core.proof.sketches import Projections
    from grail_miner.proving.base import Prover
    from grail_miner.proving.processes import ProcessProver

Figures = dict[str, float]
ROUNDS, GROUPS = 5, 4
TOKENS = {"tiny": 256, "100m": 128}
"""Of the longest row of a group."""


def measure() -> Figures:
    """Every figure of the benchmark, by its key."""
    figures: Figures = {}
    for model, tokens in TOKENS.items():
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = _checkpoint(Path(folder), model)
            found = _of_model(checkpoint, tokens)
        figures |= {f"workers.{model}.{key}": value for key, value in found.items()}
    figures["workers.load_average"] = os.getloadavg()[0]
    return figures


def _checkpoint(folder: Path, model: str) -> PreparedCheckpoint:
    from tooling.testing.models.tiny_qwen2 import BYTES, Qwen2Shape, save_byte_model
    from tooling.testing.proving import prepared

    large = Qwen2Shape(
        32_000, hidden=768, layers=13, heads=12, key_value_heads=4, intermediate=2048, context=1024, spread=0.02, tied=True
    )
    return prepared(save_byte_model(folder, BYTES if model == "tiny" else large))


def _of_model(checkpoint: PreparedCheckpoint, tokens: int) -> Figures:
    import torch

    from grail_miner.proving.in_process import InProcessProver
    from grail_miner.proving.places import on_processors
    from grail_miner.proving.processes import ProcessProver
    from grail_miner.proving.threads import ThreadProver

    figures: Figures = {}
    cores = len(os.sched_getaffinity(0))

    def measured(name: str, prover: Prover, threads: int) -> None:
        torch.set_num_threads(threads)
        figures[f"{name}.load_s"] = _seconds(lambda: prover.load(checkpoint))
        figures[f"{name}.worst"], figures[f"{name}.groups_s"] = _rate(prover, checkpoint, tokens)

    measured("one.single", InProcessProver(), 1)
    measured("one", InProcessProver(), cores)
    measured("threads", ThreadProver(("cpu", "cpu")), 1)
    torch.set_num_threads(1)
    started = time.perf_counter()
    with ProcessProver(on_processors(2)) as prover:
        prover.load(checkpoint)
        figures["processes.start_s"] = time.perf_counter() - started
        figures["processes.worst"], figures["processes.groups_s"] = _rate(prover, checkpoint, tokens)
        figures |= _memory(prover)
        figures["processes.load_s"] = _seconds(lambda: _load_again(prover, checkpoint))
    return figures


def _load_again(prover: ProcessProver, checkpoint: PreparedCheckpoint) -> None:
    """What a new checkpoint of the same size costs workers that run: the same files under another manifest."""
    from dataclasses import replace

    from grail_core.protocol.types import Digest
    from tooling.testing import plain_window as plain

    manifest = plain.manifest(Digest(bytes([1]) * 32), checkpoint.manifest.weights_root)
    prover.load(replace(checkpoint, manifest=manifest))


def _rate(prover: Prover, checkpoint: PreparedCheckpoint, tokens: int) -> tuple[float, float]:
    """Groups a second: of the worst round, and the median."""
    rows, prompts, signs = _group(checkpoint, tokens)
    rates = []
    with ThreadPoolExecutor(prover.slots) as pool:
        for number in range(ROUNDS + 1):
            started = time.perf_counter()
            for one in [pool.submit(prover.prove, rows, prompts, signs) for _ in range(GROUPS)]:
                one.result()
            if number:  # the first one compiles and allocates
                rates.append(GROUPS / (time.perf_counter() - started))
    return min(rates), statistics.median(rates)


def _group(checkpoint: PreparedCheckpoint, tokens: int) -> tuple[list[list[int]], list[int], Projections]:
    import numpy as np

    from tooling.testing.proving import signs

    draw = np.random.default_rng(1)
    lengths = np.linspace(tokens // 2, tokens, 16).astype(int).tolist()
    rows = [draw.integers(0, checkpoint.description.vocabulary_size, length).tolist() for length in lengths]
    return rows, [tokens // 4] * 16, signs(checkpoint.description.hidden_size)


def _memory(prover: ProcessProver) -> Figures:
    found = {"Rss": 0, "Pss": 0}
    for pid in prover.pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, size = line.split(":")[0], line.split()[1]
            if name in found:
                found[name] += int(size)
    return {"processes.rss_mb": found["Rss"] / 1024, "processes.pss_mb": found["Pss"] / 1024}


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
