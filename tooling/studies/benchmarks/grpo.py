"""`grpo`: one GRPO update, and the log-probabilities of a large vocabulary, beside TRL's and the bare products.

    hatch run bench grpo          a table
    hatch run bench grpo --json   one flat object

The update is `grpo_workload`'s: a random 4-layer Qwen2 (h 256, V 32,000), a group of 8 rollouts, 64 + 64 tokens, float32, one
thread. Each side runs in processes of its own, by turns; generation and rewards are on neither side. TRL runs in its
environment (`peers` in hatch.toml, made when it is missing; GRAIL_PEER_PYTHON names another Python), in every configuration of
`grpo_trl` once, then the fastest by turns with ours; `grpo.trl.is.*` says which, `grpo.trl.least_*` is the least memory of any
of them. Without it only ours and the floor are printed.

`step_s` and `step_cpu_s`: wall and processor time of a step, the median over the turns of each process's smallest after its
first step (moments are made in that one); the ratio is that of processor times, which others on the machine disturb least.
`rss_mb`: the most a process had (VmHWM); `above_mb`: that less what it had before the first step, with model, libraries and
trainer in memory. `grpo.rss_ratio` is of the former, `grpo.above_ratio` of the latter. `gradient_error`: the largest difference
of an element of the first step's gradients by the largest element of TRL's. `floor_s`: the products of head and body for the
tokens that have to be read, forward and backward, in processor time; nothing else.

`logprob.peak_mb`: the head alone, T 1,024, H 896, V 151,936, an objective's loss and its gradients; the most the process had
less what it had before and less the gradients that are returned.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from tooling.studies.benchmarks import grpo_workload

Figures = dict[str, float]

TURNS, STEPS = 5, 6
CONFIGURATIONS: Final = (
    "default",
    "foreach",
    "small-optimiser",
    "eager-attention",
    "compiled",
    "micro-batches-of-4",
    "micro-batches-of-2",
    "micro-batches-of-1",
    "compiled, micro-batches-of-2",
)
"""Of `grpo_trl`, which is not imported: it needs TRL."""

RATIOS: Final = (
    ("step_ratio", "step_cpu_s"),
    ("wall_ratio", "step_s"),
    ("rss_ratio", "rss_mb"),
    ("above_ratio", "above_mb"),
)
PEER_PYTHON: Final = "GRAIL_PEER_PYTHON"
_PEER_SCRIPT: Final = Path(__file__).with_name("grpo_trl.py")


def measure() -> Figures:
    """Every figure of the benchmark, by its key."""
    peer = peer_python()
    with tempfile.TemporaryDirectory() as name:
        folder = grpo_workload.make(Path(name))
        figures = _updates(folder, peer)
    figures |= {"grpo.floor_s": float(_ours("floor")["floor"]), "logprob.peak_mb": float(_ours("logprob")["peak"])}
    figures["grpo.floor_ratio"] = figures["grpo.step_cpu_s"] / figures["grpo.floor_s"]
    figures["grpo.load_average"] = os.getloadavg()[0]
    return figures


def peer_python() -> str | None:
    """The Python of TRL's environment, made if need be; None, saying why, where there is none."""
    named = os.environ.get(PEER_PYTHON)
    if named:
        return named
    try:
        subprocess.run(["hatch", "env", "create", "peers"], check=True, capture_output=True, text=True)
        found = subprocess.run(["hatch", "env", "find", "peers"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"no TRL to measure beside ({error}); {PEER_PYTHON} may name a Python that has it")
        return None
    return str(Path(found.stdout.strip()) / "bin" / "python")


def _updates(folder: Path, peer: str | None) -> Figures:
    tried = {} if peer is None else _every_configuration(folder, peer)
    name = min(tried, key=lambda one: tried[one]["step_cpu_s"]) if tried else None
    ours, theirs = [], []
    for _ in range(TURNS):
        ours.append(_ours("time", str(folder), str(STEPS)))
        if peer is not None and name is not None:
            theirs.append(_trl(peer, folder, name, "time", str(STEPS)))
    mine = _told(ours)
    figures = {f"grpo.{key}": value for key, value in mine.items()}
    if peer is None or name is None:
        return figures
    trl = _told(theirs)
    figures |= {f"grpo.trl.{key}": value for key, value in trl.items()} | {f"grpo.trl.is.{name}": 1.0}
    figures |= {f"grpo.trl.least_{key}": min(one[key] for one in tried.values()) for key in ("rss_mb", "above_mb")}
    figures |= {f"grpo.{ratio}": mine[key] / trl[key] for ratio, key in RATIOS}
    return figures | {"grpo.gradient_error": _gradient_error(folder, peer, name)}


def _every_configuration(folder: Path, peer: str) -> dict[str, Figures]:
    """What each comes to in one process; what fails here is told and left out."""
    tried: dict[str, Figures] = {}
    for name in CONFIGURATIONS:
        try:
            tried[name] = _told([_trl(peer, folder, name, "time", str(STEPS))])
        except subprocess.CalledProcessError as error:
            print(f"TRL, {name}: failed\n{error.stderr[-2000:]}")
            continue
        print(f"TRL, {name}: {tried[name]['step_cpu_s']:.3f} s, {tried[name]['rss_mb']:.0f} MB")
    return tried


def _told(runs: list[dict[str, Any]]) -> Figures:
    least = {key: [min(run[key][1:]) for run in runs] for key in ("wall", "cpu")}
    return {
        "step_s": statistics.median(least["wall"]),
        "step_cpu_s": statistics.median(least["cpu"]),
        "step_cpu_spread": max(least["cpu"]) - min(least["cpu"]),
        "rss_mb": statistics.median(run["peak"] for run in runs),
        "above_mb": statistics.median(run["peak"] - run["before"] for run in runs),
    }


def _gradient_error(folder: Path, peer: str, name: str) -> float:
    from safetensors.torch import load_file

    _ours("gradient", str(folder), f"{folder}/ours.safetensors")
    _trl(peer, folder, name, "gradient", f"{folder}/trl.safetensors")
    mine, theirs = load_file(f"{folder}/ours.safetensors"), load_file(f"{folder}/trl.safetensors")
    theirs = {key.removeprefix("_orig_mod."): value for key, value in theirs.items()}
    if mine.keys() != theirs.keys():
        raise RuntimeError(f"other parameters than TRL's: {sorted(mine.keys() ^ theirs.keys())}")
    largest = max(float(gradient.abs().max()) for gradient in theirs.values())
    return max(float((mine[key] - theirs[key]).abs().max()) for key in theirs) / largest


def _ours(*arguments: str) -> dict[str, Any]:
    return _last_line([sys.executable, "-m", "tooling.studies.benchmarks.grpo_workload", *arguments])


def _trl(peer: str, folder: Path, name: str, *arguments: str) -> dict[str, Any]:
    return _last_line([peer, str(_PEER_SCRIPT), str(folder), name, *arguments])


def _last_line(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result
