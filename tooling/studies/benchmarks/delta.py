"""`delta`: how small and how fast a published checkpoint delta is, beside peers and beside the entropy of what changed.

    hatch run bench delta            a table
    hatch run bench delta --json     one flat object

Ratios are of the whole delta object (frames, digests, layout) against the full bf16 weights. Speeds are relative to the full
size and are the best of several; with one thread they are taken in CPU time of the thread, which other work on the machine
disturbs least, and with all threads in wall time. Bounds are the entropy of the changes given nothing (`bound_iid`) and given
the exponent of the base value (`bound_exponent`), signs and step sizes included.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from grail_core.checkpoints.delta.codec import Check, Frame, Profile, decode, encode, read_frames
from grail_core.checkpoints.delta.digests import digest_state
from grail_core.checkpoints.delta.shards import save_weights
from grail_core.checkpoints.delta.tensors import Layout, RawTensor, to_torch
from tooling.studies.benchmarks.delta_peers import PEERS
from tooling.studies.benchmarks.delta_reader import late_reader_figures
from tooling.studies.benchmarks.delta_workloads import State, real, synthetic

Figures = dict[str, float]

UNCHANGED = (("982", 0.982), ("994", 0.994), ("956", 0.956))
LEARNING_RATES = (("1e-6", 1e-6), ("3e-6", 3e-6), ("1e-5", 1e-5))
REPEATS = 7


def measure() -> Figures:
    """Every figure of the benchmark, by its key."""
    figures: Figures = {}
    for suffix, share in UNCHANGED:
        base, new = synthetic(share)
        figures |= _ratios(f".{suffix}", base, new)
        if share == UNCHANGED[0][1]:
            figures |= _speeds(base, new)
            figures |= _saving(new)
    for name, rate in LEARNING_RATES:
        figures |= _training(name, rate)
    return figures | late_reader_figures() | {"delta.load_average": os.getloadavg()[0]}


def _ratios(suffix: str, base: State, new: State) -> Figures:
    full = _nbytes(new)
    old_digests, new_digests = digest_state(base), digest_state(new)
    sizes = {}
    for profile in Profile:
        frames = [f.to_bytes() for f in encode(base, new, profile, base_digests=old_digests, new_digests=new_digests)]
        sizes[profile] = sum(map(len, frames))
        made = decode(base, read_frames(b"".join(frames)))
        if any((made[name].bits != new[name].bits).any() for name in new):
            raise AssertionError("the codec does not give back what it was given")
    a, b = _flat(base), _flat(new)
    iid, conditioned = bounds(a, b)
    figures = {
        f"delta.ratio{suffix}": full / sizes[Profile.SMALL],
        f"delta.fast.ratio{suffix}": full / sizes[Profile.FAST],
        f"delta.unchanged{suffix}": float((a == b).mean()),
        f"delta.bound_iid{suffix}": iid,
        f"delta.bound_exponent{suffix}": conditioned,
    }
    for peer in PEERS:
        data = peer.encode(a, b)
        if (peer.decode(a, data) != b).any():
            raise AssertionError(f"{peer.name} does not give back what it was given")
        figures[f"delta.peer.{peer.name}.ratio{suffix}"] = full / len(data)
    return figures


def _speeds(base: State, new: State) -> Figures:
    megabytes = _nbytes(new) / 1e6
    old_digests, new_digests = digest_state(base), digest_state(new)
    room = {name: RawTensor(t.layout, np.empty_like(t.bits)) for name, t in new.items()}
    cores = len(os.sched_getaffinity(0))
    figures: Figures = {}

    def allocate(name: str, layout: Layout) -> RawTensor:
        return room[name]

    for profile, key in ((Profile.FAST, "delta.mb_per_s"), (Profile.SMALL, "delta.small.mb_per_s")):
        frames = list(encode(base, new, profile, base_digests=old_digests, new_digests=new_digests))
        for threads, suffix, clock in ((1, "", time.thread_time), (cores, f".threads{cores}", time.perf_counter)):

            def write(profile: Profile = profile, threads: int = threads) -> None:
                for _ in encode(base, new, profile, threads=threads, base_digests=old_digests, new_digests=new_digests):
                    pass

            def read(frames: list[Frame] = frames, threads: int = threads) -> None:
                decode(base, iter(frames), check=Check.NOTHING, allocate=allocate, threads=threads)

            figures[f"{key}.encode{suffix}"] = megabytes / best(write, clock)
            figures[f"{key}.decode{suffix}"] = megabytes / best(read, clock)

        def verify(frames: list[Frame] = frames) -> None:
            decode(base, iter(frames), check=Check.RESULT, allocate=allocate, threads=cores)

        name = "delta.verified.mb_per_s.decode" if profile is Profile.FAST else "delta.small.verified.mb_per_s.decode"
        figures[name] = megabytes / best(verify, time.perf_counter)
    a, b = _flat(base), _flat(new)
    for peer in PEERS:
        data = peer.encode(a, b)
        figures[f"delta.peer.{peer.name}.mb_per_s.encode"] = megabytes / best(lambda p=peer: p.encode(a, b), time.thread_time)  # type: ignore[misc]
        figures[f"delta.peer.{peer.name}.mb_per_s.decode"] = megabytes / best(
            lambda p=peer, d=data: p.decode(a, d),  # type: ignore[misc]
            time.thread_time,
        )
    return figures


def _saving(state: State) -> Figures:
    """Both ways in turn, so that what else the machine does strikes both alike."""
    from safetensors.torch import save_file

    tensors = {name: to_torch(tensor) for name, tensor in state.items()}
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for _ in range(2 * REPEATS):
            theirs.append(_seconds(lambda: save_file(tensors, folder / "theirs.safetensors"), time.perf_counter))
            ours.append(_seconds(lambda: save_weights(folder, state).root, time.perf_counter))
    return {
        "checkpoint.save_ratio": min(ours) / min(theirs),
        "checkpoint.save_s": min(ours),
        "checkpoint.peer.save_file_s": min(theirs),
    }


def _training(name: str, rate: float) -> Figures:
    """Mean over consecutive steps of a real run; peers and bounds are means of sizes too."""
    totals: Figures = {}
    full = steps = 0
    for base, new in pairwise(real(rate)):
        a, b = _flat(base), _flat(new)
        sizes: Figures = {"unchanged": float((a == b).mean())}
        iid, conditioned = bounds(a, b)
        full = _nbytes(new)
        sizes |= {"bound_iid": full / iid, "bound_exponent": full / conditioned}
        for profile in Profile:
            frames = list(encode(base, new, profile))
            made = decode(base, iter(frames))
            if any((made[n].bits != new[n].bits).any() for n in new):
                raise AssertionError("the codec does not give back what it was given")
            sizes["ratio" if profile is Profile.SMALL else "fast.ratio"] = sum(len(f.to_bytes()) for f in frames)
        for peer in PEERS:
            sizes[f"peer.{peer.name}.ratio"] = len(peer.encode(a, b))
        totals = {key: totals.get(key, 0.0) + value for key, value in sizes.items()}
        steps += 1
    return {
        f"delta.real.lr{name}.{key}": value / steps if key == "unchanged" else full * steps / value
        for key, value in totals.items()
    } | {f"delta.real.lr{name}.steps": float(steps)}


def bounds(base: npt.NDArray[np.uint16], new: npt.NDArray[np.uint16]) -> tuple[float, float]:
    """Best ratios of any code that knows only how often weights change and by which steps; and that, by exponent."""

    def binary(p: float) -> float:
        return 0.0 if p in (0.0, 1.0) else float(-p * np.log2(p) - (1 - p) * np.log2(1 - p))

    def entropy(values: npt.NDArray[np.int32]) -> float:
        _, counts = np.unique(values, return_counts=True)
        share = counts / counts.sum()
        return float(-(share * np.log2(share)).sum())

    changed = base != new
    places = np.flatnonzero(changed)
    steps = _line(new[places]) - _line(base[places])
    exponents = (base >> 7) & 0xFF
    held = np.bincount(exponents, minlength=256)
    moved = exponents[places]
    p = places.size / base.size
    iid = binary(p) + (p * entropy(steps) if places.size else 0.0)
    conditioned = 0.0
    for group in np.flatnonzero(held):
        of_group = steps[moved == group]
        q = of_group.size / held[group]
        conditioned += held[group] / base.size * (binary(q) + (q * entropy(of_group) if of_group.size else 0.0))
    return (16 / iid if iid else float("inf")), (16 / conditioned if conditioned else float("inf"))


def best(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Seconds, the best of several after one that does not count."""
    work()
    return min(_seconds(work, clock) for _ in range(REPEATS if clock is time.thread_time else 3 * REPEATS))


def _seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    work()
    return clock() - start


def _line(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.int32]:
    return np.where(bits & 0x8000, 0xFFFF ^ bits, bits | 0x8000).astype(np.int32)


def _flat(state: State) -> npt.NDArray[np.uint16]:
    return np.concatenate([state[name].bits for name in sorted(state)])


def _nbytes(state: State) -> int:
    return sum(tensor.layout.nbytes for tensor in state.values())
