"""What a reader pays: memory to apply a delta to a loaded model of 500 M weights, and downloads to catch up 37 windows.

    python -m tooling.studies.benchmarks.delta_reader      both, as JSON

The memory is the peak resident size (VmHWM, reset just before) of a fresh process above what it held with the model loaded;
the delta is read from a file as the cache would hold it. The late reader works against a real bucket that counts requests.
"""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from grail_core.checkpoints.cache import CheckpointCache
from grail_core.checkpoints.delta.codec import Profile, apply, encode, read_frames
from grail_core.checkpoints.delta.shards import map_weights
from grail_core.checkpoints.delta.tensors import DTYPES, Layout, RawTensor
from grail_core.checkpoints.fetch import materialise
from grail_core.protocol.manifest import OBJECT_PREFIX
from grail_core.storage.filesystem import FilesystemStore
from tooling.testing.checkpoints import WeightsTrainer, bucket_of

WEIGHTS, TENSORS, CHANGED = 500_000_000, 50, 0.018
BEHIND, CHAIN = 37, 60


def memory_figures() -> dict[str, float]:
    """Peak memory of `apply` in both profiles, in MB (10⁶ bytes), and the budget: 64 MiB and 2 % of the model."""
    figures: dict[str, float] = {"checkpoint.apply_budget_mb": (64 * 2**20 + 0.02 * 2 * WEIGHTS) / 1e6}
    for profile in Profile:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "delta"
            _in_fresh_process("encode", profile.value, str(path))
            extra = _in_fresh_process("apply", profile.value, str(path))
        suffix = "" if profile is Profile.SMALL else ".fast"
        figures[f"checkpoint.apply_extra_mb{suffix}"] = float(extra)
    return figures


def late_reader_figures() -> dict[str, float]:
    """Objects and bytes for a reader 37 checkpoints behind, beside every delta in between and beside the full weights."""
    rng = np.random.default_rng(0)
    master = rng.standard_normal(2_000_000, np.float32) * np.float32(0.02)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        trainer = WeightsTrainer(FilesystemStore(root, "trainer"), root / "own")
        manifests = []
        for number in range(CHAIN):
            master += rng.standard_normal(master.size, np.float32) * np.float32(4.8e-7)
            bits = (master.view(np.uint32) + np.uint32(0x8000) >> np.uint32(16)).astype(np.uint16)
            state = {"w": RawTensor(Layout(DTYPES["BF16"], (2000, 1000)), bits)}
            manifests.append(trainer.publish(number, state))
        target, held = manifests[-1], manifests[-1 - BEHIND]
        counting = _CountingStore(root, "trainer", read_only=True)
        cache = CheckpointCache(root / "reader")
        materialise(held, bucket_of(counting, cache))
        bucket = bucket_of(counting, cache)
        bucket.sequence()
        counting.fetched.clear()
        reached = materialise(target, bucket)
        if (map_weights(reached)["w"].bits != bits).any():
            raise AssertionError("the late reader did not arrive at the trainer's weights")
        got = dict(counting.fetched)
    between = manifests[len(manifests) - BEHIND :]
    single = [next(d.size for d in m.deltas if d.base_sequence == m.sequence - 1) for m in between]
    return {
        "delta.late.behind": float(BEHIND),
        "delta.late.objects": float(len(got)),
        "delta.late.mb": sum(got.values()) / 1e6,
        "delta.late.chain_mb": sum(single) / 1e6,
        "delta.late.full_mb": 2 * master.size / 1e6,
    }


class _CountingStore(FilesystemStore):
    """Remembers which objects were read, and how many bytes of each."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.fetched: dict[str, int] = {}

    def get(self, key: str, **options: Any) -> bytes:
        data = super().get(key, **options)
        if key.startswith(OBJECT_PREFIX):
            self.fetched[key] = self.fetched.get(key, 0) + len(data)
        return data


def _model(changed: bool) -> dict[str, RawTensor]:
    """Random bf16 weights; the changed ones differ by one step in the places the seed says."""
    layout = Layout(DTYPES["BF16"], (WEIGHTS // TENSORS // 1000, 1000))
    state = {}
    for number in range(TENSORS):
        rng = np.random.default_rng(number)
        values = rng.standard_normal(layout.elements, np.float32) * np.float32(0.02)
        bits = (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
        if changed:
            bits += rng.random(bits.size, np.float32) < CHANGED
        state[f"layers.{number}.weight"] = RawTensor(layout, bits)
    return state


def _encode(profile: Profile, path: Path) -> None:
    with path.open("wb") as file:
        for frame in encode(_model(False), _model(True), profile):
            file.write(frame.to_bytes())


def _apply(profile: Profile, path: Path) -> float:
    small = {"w": RawTensor(Layout(DTYPES["BF16"], (64,)), np.arange(64, dtype=np.uint16))}
    other = {"w": RawTensor(small["w"].layout, small["w"].bits + np.uint16(1) * (np.arange(64) % 9 == 0).astype(np.uint16))}
    warm = list(encode(small, other, profile))
    apply(small, lambda: iter(warm))  # the compiled loops are loaded, as in a process that has followed the chain before
    state = _model(False)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from what is resident now
    before = _status("VmRSS")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:

        def frames() -> Iterator[Any]:
            return read_frames(mapped)

        apply(state, frames)
    return (_status("VmHWM") - before) * 1024 / 1e6


def _status(field: str) -> int:
    """kB, from the kernel's account of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise AssertionError(f"the kernel does not say {field}")


def _in_fresh_process(*arguments: str) -> str:
    command = [sys.executable, "-m", "tooling.studies.benchmarks.delta_reader", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _main(arguments: list[str]) -> None:
    if not arguments:
        print(json.dumps({**late_reader_figures(), **memory_figures()}, indent=1))
        return
    work, profile, path = arguments[0], Profile(arguments[1]), Path(arguments[2])
    if work == "encode":
        _encode(profile, path)
    else:
        print(_apply(profile, path))


if __name__ == "__main__":
    _main(sys.argv[1:])
