"""`proof`: what proving and verifying cost, without the model's body where a figure is about something else.

    hatch run bench proof          a table
    hatch run bench proof --json   one flat object

One thread, and processor time, so that a busy machine disturbs the figures little: medians over repeats. A figure of several
sizes is the worst of them and each size has a suffix. The two LM-head variants run in fresh processes, so that their memory
is their own. What a model's passes cost beside generating (`verify.*`) is in `proof_verify`.

Beside ours stands what other systems compute in its place (`peer.*`, see `proof_peers`), on the same inputs in the same run.
TOPLOC's figures are missing where its package, which has to be built, is not installed:

    pip install --no-deps --no-build-isolation --no-binary toploc toploc==0.1.6
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


Figures = dict[str, float]

COMMIT_SIZES = ((512, 896), (2048, 2048), (8192, 3584))
VOCABULARY = 151_936
HEAD_HIDDEN = 896
HEAD_POSITIONS, HEAD_CHALLENGED = 1024, 32
ROLLOUTS, CHALLENGED = 64, 32  # a validator's sample
FUZZ_INPUTS = 100_000


def measure() -> Figures:
    """Every figure of the benchmark, by its key."""
    import torch

    from tooling.studies.benchmarks.proof_verify import generation

    torch.set_num_threads(1)
    figures: Figures = {}
    figures |= sketches()
    figures |= refusals()
    figures |= sampling()
    figures |= lm_head()
    figures |= generation()
    figures["proof.load_average"] = os.getloadavg()[0]
    return figures


def sketches() -> Figures:
    """Committing and comparing, ours and others'."""
    import torch

    from grail_core.proof.calibration import shipped_table
    from grail_core.proof.comparison import compare
    from grail_core.proof.numerics import DEFAULT_CLASS
    from grail_core.proof.sketches import parse_sketches, quantise
    from grail_core.proof.statistics import evaluate
    from tooling.studies.benchmarks.proof_peers import toploc

    figures: Figures = {}
    rng = np.random.default_rng(0)
    package = toploc()
    for tokens, d in COMMIT_SIZES:
        hidden = torch.randn(tokens, d).to(torch.bfloat16)
        signs = rng.choice(np.array([-1, 1], dtype=np.float32), (4, d))
        data = _commit(hidden, signs)
        figures["proof.bytes_per_token"] = len(data) / tokens
        figures[f"proof.commit_us_per_token.d{d}"] = 1e6 * _median(partial(_commit, hidden, signs), 15) / tokens
        figures |= _topk_prime(hidden) | (_toploc(package, hidden) if package is not None else {})
    for key in {name.rpartition(".d")[0] for name in figures if ".d" in name}:
        figures[key] = max(figures[f"{key}.d{d}"] for _, d in COMMIT_SIZES)

    # A validator's sample: 64 rollouts, 32 challenged positions each, from wire bytes to every statistic and its threshold.
    pair = shipped_table().lookup(DEFAULT_CLASS, DEFAULT_CLASS)
    claims = []
    for _ in range(ROLLOUTS):
        z = rng.normal(size=(CHALLENGED + 1, 4)).astype(np.float32)
        claims.append((quantise(z), z[1:], rng.normal(size=CHALLENGED).astype(np.float32), np.zeros(CHALLENGED)))

    def verify() -> None:
        sample = [
            compare(
                index // 16,
                index % 16,
                claimed_sketches=parse_sketches(data, CHALLENGED + 1)[1:],
                claimed_logprobs=logprobs,
                z=z,
                logprobs=logprobs,
                margins=margins,
            )
            for index, (data, z, logprobs, margins) in enumerate(claims)
        ]
        if any(statistic.rejects for statistic in evaluate(sample, pair)):
            raise RuntimeError("honest claims were rejected")

    figures["proof.verify_us_per_position"] = 1e6 * _median(verify, 40) / (ROLLOUTS * CHALLENGED)
    return figures


def _commit(hidden: torch.Tensor, signs: np.ndarray) -> bytes:
    from grail_core.proof.sketches import quantise, sketch

    return quantise(sketch(hidden, signs))


def _toploc(package: Any, hidden: torch.Tensor) -> Figures:
    """TOPLOC on bf16 hidden states [n, d]."""
    from tooling.studies.benchmarks.proof_peers import toploc_commit, toploc_verify

    tokens, d = hidden.shape
    proofs = toploc_commit(package, hidden)
    commit_s = _median(partial(toploc_commit, package, hidden), 7)
    verify_s = _median(partial(toploc_verify, package, hidden, proofs), 7)
    return {
        "peer.toploc.bytes_per_token": sum(map(len, proofs)) / tokens,
        f"peer.toploc.commit_us_per_token.d{d}": 1e6 * commit_s / tokens,
        f"peer.toploc.verify_us_per_token.d{d}": 1e6 * verify_s / tokens,
    }


def _topk_prime(hidden: torch.Tensor) -> Figures:
    """Top-k bucket sketches modulo a prime; float32 hidden states are made before the clock runs."""
    import torch

    from tooling.studies.benchmarks.proof_peers import topk_prime_coefficients, topk_prime_commit, topk_prime_verify

    tokens, d = hidden.shape
    wide = hidden.float()
    coefficients = topk_prime_coefficients(torch.Generator().manual_seed(0))
    sample = wide[:CHALLENGED].clone()
    claimed = topk_prime_commit(sample, coefficients)

    def verify() -> None:
        for _ in range(ROLLOUTS):
            topk_prime_verify(sample, claimed, coefficients)

    return {
        f"peer.topk_prime.commit_us_per_token.d{d}": 1e6 * _median(lambda: topk_prime_commit(wide, coefficients), 7) / tokens,
        f"peer.topk_prime.verify_us_per_position.d{d}": 1e6 * _median(verify, 15) / (ROLLOUTS * CHALLENGED),
    }


def refusals() -> Figures:
    """What hostile bytes in place of sketches cost: chosen ones, then a fuzz corpus of which every input is tried three times.

    Raises:
        RuntimeError: malformed bytes were accepted. Any other exception than the typed one passes through.
    """
    from tooling.testing.hostile_sketches import chosen, fuzzed

    chosen_us = max(1e6 * _median(partial(_refused, *case), 40) for case in chosen())
    worst_ns = accepted = 0
    for thing, positions in fuzzed(FUZZ_INPUTS, seed=4):
        times = []
        for _ in range(3):
            started = time.process_time_ns()
            well_formed = _parses(thing, positions)
            times.append(time.process_time_ns() - started)
        accepted += well_formed
        worst_ns = max(worst_ns, min(times))  # the least of three: interrupts are no property of the input
    return {
        "proof.reject_us": chosen_us,
        "proof.fuzz_inputs": FUZZ_INPUTS,
        "proof.fuzz_well_formed": accepted,
        "proof.fuzz_worst_us": worst_ns / 1e3,
    }


def _parses(thing: object, positions: int) -> bool:
    from grail_core.proof.errors import MalformedSketchError
    from grail_core.proof.sketches import parse_sketches

    try:
        parse_sketches(thing, positions)
    except MalformedSketchError:
        return False
    return True


def _refused(thing: object, positions: int) -> None:
    if _parses(thing, positions):
        raise RuntimeError("hostile bytes were accepted")


def sampling() -> Figures:
    """The seeded-sampling check of one position, logits given; honest claims, so every candidate has to be looked at.

    Beside it the checks of others from the same rows of logits, and its time as a share of a bare log-sum-exp's. Both sides can
    be held to what another machine has, the rest of the figures with them (docs/measurements.md names the machines tried):

        NUMBA_CPU_NAME=haswell NUMBA_CPU_FEATURES=+avx2,+fma ATEN_CPU_CAPABILITY=avx2 hatch run bench proof
    """
    import torch

    from grail_core.model.sampling import SeededSampler
    from grail_core.protocol.policy import GenerationPolicy
    from tooling.studies.benchmarks.proof_peers import LOGIT_PEERS

    rng = np.random.default_rng(2)
    rows = {
        "zipf": (-1.1 * np.log(rng.permutation(VOCABULARY) + 1.0)).astype(np.float32),
        "normal": rng.normal(0, 2.5, VOCABULARY).astype(np.float32),
    }
    sampler = SeededSampler(GenerationPolicy(1))
    figures: Figures = {}
    for name, logits in rows.items():
        positions = np.arange(64, dtype=np.uint32)
        tokens = sampler.sample(np.broadcast_to(logits, (64, VOCABULARY)), np.full(64, 7, np.uint64), positions)

        def check(logits: np.ndarray = logits, tokens: np.ndarray = tokens) -> None:
            if any(sampler.margin(logits, 7, position, int(token)) for position, token in enumerate(tokens)):
                raise RuntimeError("a sampled token has a margin")

        figures[f"sampling.verify_us_per_position.{name}"] = 1e6 * _median(check, 15) / 64
        row = torch.from_numpy(logits)
        for key, peer in LOGIT_PEERS:

            def compute(row: torch.Tensor = row, peer: Callable[[torch.Tensor, int], object] = peer) -> None:
                for position in range(64):
                    peer(row, position)

            figures[f"peer.{key}.{name}"] = 1e6 * _median(compute, 7) / 64
        bare = figures[f"peer.log_sum_exp.us_per_position.{name}"]
        figures[f"sampling.log_sum_exp_share.{name}"] = figures[f"sampling.verify_us_per_position.{name}"] / bare
    for key in (
        "sampling.verify_us_per_position",
        "sampling.log_sum_exp_share",
        *(f"peer.{key}" for key, _ in LOGIT_PEERS),
    ):
        figures[key] = max(figures[f"{key}.{name}"] for name in rows)
    return figures


def lm_head() -> Figures:
    """The head on 32 challenged positions against all 1,024, float32 products, each in a process of its own."""
    full, challenged = _head_process("full"), _head_process("challenged")
    return {
        "lm_head.ratio": challenged["seconds"] / full["seconds"],
        "lm_head.full_s": full["seconds"],
        "lm_head.full_mb": full["mb"],
        "lm_head.challenged_s": challenged["seconds"],
        "lm_head.challenged_mb": challenged["mb"],
    }


def _head_process(which: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-m", __name__, which], capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def _head_alone(which: str) -> dict[str, float]:
    """Seconds and megabytes over what the weights and hidden states take."""
    import torch

    from grail_core.model.policy_model import PolicyModel
    from tooling.testing.models.tiny_qwen2 import Qwen2Shape, random_model

    shape = Qwen2Shape(VOCABULARY, hidden=HEAD_HIDDEN, intermediate=64, layers=1, heads=1, key_value_heads=1)
    with torch.device("meta"):
        module = random_model(shape)
    module.lm_head.weight = torch.nn.Parameter(torch.randn(VOCABULARY, HEAD_HIDDEN, dtype=torch.bfloat16), requires_grad=False)
    model = PolicyModel(module)
    hidden = torch.randn(HEAD_POSITIONS, HEAD_HIDDEN, dtype=torch.bfloat16)
    chosen = hidden[:HEAD_CHALLENGED]
    warm = hidden[:64].float() @ hidden[:64].float().t()  # the product's own buffers are allocated before memory is counted
    assert warm.shape == (64, 64)

    def run() -> object:
        if which == "full":
            with torch.inference_mode():
                return hidden.float() @ module.lm_head.weight.float().t()
        return model.logits(chosen)

    _forget_peak()
    before = _peak_mb()
    run()
    peak = _peak_mb()
    return {"seconds": _median(run, 3 if which == "full" else 9), "mb": peak - before}


def _forget_peak() -> None:
    """The peak begins anew at what is resident now. `getrusage` would give the parent's peak where that was higher."""
    Path("/proc/self/clear_refs").write_text("5")


def _peak_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _median(action: Callable[[], object], repeats: int) -> float:
    """Seconds, median; the first call is not counted."""
    action()
    times = []
    for _ in range(repeats):
        started = time.process_time()
        action()
        times.append(time.process_time() - started)
    return statistics.median(times)


if __name__ == "__main__":
    print(json.dumps(_head_alone(sys.argv[1])))
