"""`proof`: what proving and verifying cost, without the model's body where a figure is about something else.

    hatch run bench proof          a table
    hatch run bench proof --json   one flat object

One thread, and processor time, so that a busy machine disturbs the figures little: medians over repeats. A figure of several
sizes is the worst of them and each size has a suffix. The two LM-head variants run in fresh processes, so that their memory
is their own. `verify.generate_ratio` runs the generator and all model checks of a validator on the same rows; claims and
judgements are not part of either side.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

    from grail_core.proof.group import RowProof

Figures = dict[str, float]

COMMIT_SIZES = ((512, 896), (2048, 2048), (8192, 3584))
VOCABULARY = 151_936
HEAD_HIDDEN = 896
HEAD_POSITIONS, HEAD_CHALLENGED = 1024, 32


def measure() -> Figures:
    """Every figure of the benchmark, by its key."""
    import torch

    torch.set_num_threads(1)
    figures: Figures = {}
    figures |= sketches()
    figures |= sampling()
    figures |= lm_head()
    figures |= generation()
    figures["proof.load_average"] = os.getloadavg()[0]
    return figures


def sketches() -> Figures:
    """Committing, comparing and refusing."""
    import torch

    from grail_core.proof.calibration import shipped_table
    from grail_core.proof.numerics import DEFAULT_CLASS
    from grail_core.proof.sketches import parse_sketches, quantise
    from grail_core.proof.statistics import compare, evaluate

    figures: Figures = {}
    rng = np.random.default_rng(0)
    for tokens, d in COMMIT_SIZES:
        hidden = torch.randn(tokens, d).to(torch.bfloat16)
        signs = rng.choice(np.array([-1, 1], dtype=np.float32), (4, d))
        data = _commit(hidden, signs)
        figures["proof.bytes_per_token"] = len(data) / tokens
        figures[f"proof.commit_us_per_token.d{d}"] = 1e6 * _median(partial(_commit, hidden, signs), 15) / tokens
    figures["proof.commit_us_per_token"] = max(figures[f"proof.commit_us_per_token.d{d}"] for _, d in COMMIT_SIZES)
    figures["proof.reject_us"] = 1e6 * max(_median(partial(_refused, *case), 40) for case in _hostile())

    # A validator's sample: 64 rollouts, 32 challenged positions each, from wire bytes to every statistic and its threshold.
    pair = shipped_table().lookup(DEFAULT_CLASS, DEFAULT_CLASS)
    claims = []
    for _ in range(64):
        z = rng.normal(size=(33, 4)).astype(np.float32)
        claims.append((quantise(z), z[1:], rng.normal(size=32).astype(np.float32), np.zeros(32)))

    def verify() -> None:
        sample = [
            compare(
                index // 16,
                index % 16,
                claimed_sketches=parse_sketches(data, 33)[1:],
                claimed_logprobs=logprobs,
                z=z,
                logprobs=logprobs,
                margins=margins,
            )
            for index, (data, z, logprobs, margins) in enumerate(claims)
        ]
        if any(statistic.rejects for statistic in evaluate(sample, pair)):
            raise RuntimeError("honest claims were rejected")

    figures["proof.verify_us_per_position"] = 1e6 * _median(verify, 40) / (64 * 32)
    return figures


def _commit(hidden: torch.Tensor, signs: np.ndarray) -> bytes:
    from grail_core.proof.sketches import quantise, sketch

    return quantise(sketch(hidden, signs))


def _hostile() -> Iterable[tuple[object, int]]:
    """What stands in place of sketches: other types, wrong lengths, the reserved value early, late and everywhere."""
    rng = np.random.default_rng(1)
    for positions in (2, 33, 1025, 8193):
        good = rng.integers(-32767, 32767, 4 * positions).astype("<i2")
        late, early = good.copy(), good.copy()
        late[-1] = early[0] = -32768
        yield late.tobytes(), positions
        yield early.tobytes(), positions
        yield np.full_like(good, -32768).tobytes(), positions
        for wrong in (good.tobytes()[:-1], good.tobytes() + b"\0", b"", bytes(350), good.tolist(), good, None, 1.5, "ÿ" * 64):
            yield wrong, positions


def _refused(thing: object, positions: int) -> None:
    from grail_core.proof.errors import MalformedSketchError
    from grail_core.proof.sketches import parse_sketches

    try:
        parse_sketches(thing, positions)
    except MalformedSketchError:
        return
    raise RuntimeError("hostile bytes were accepted")


def sampling() -> Figures:
    """The seeded-sampling check of one position, logits given; honest claims, so every candidate has to be looked at."""
    from grail_core.generation.base import GenerationPolicy
    from grail_core.proof.sampling import SeededSampler

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
    figures["sampling.verify_us_per_position"] = max(figures.values())
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
    import resource

    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from grail_core.proof.model import PolicyModel

    torch.set_num_threads(1)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=HEAD_HIDDEN,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
    )
    with torch.device("meta"):
        module = Qwen2ForCausalLM(config)
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

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": _median(run, 3 if which == "full" else 9), "mb": (peak - before) / 1024}


def generation() -> Figures:
    """Generating rows against verifying them: 8 rows, 64 prompt tokens, 64 and 448 completion tokens, an 11 M Qwen2."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from grail_core.generation.base import GenerationPolicy, GenerationRequest
    from grail_core.generation.hf import HfGenerator
    from grail_core.proof.calibration import shipped_table
    from grail_core.proof.group import measure_rows, prove_rows
    from grail_core.proof.model import PolicyModel
    from grail_core.proof.numerics import DEFAULT_CLASS
    from grail_core.proof.sketches import parse_sketches, projections
    from grail_core.proof.statistics import compare, evaluate
    from grail_core.protocol import challenged_positions
    from grail_core.protocol.randomness import Randomness

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=32_000,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    module = Qwen2ForCausalLM(config)
    for parameter in module.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    model = PolicyModel(module)
    signs = projections(Randomness(bytes(32)), bytes(32), model.hidden_size)
    pair = shipped_table().lookup(DEFAULT_CLASS, DEFAULT_CLASS)
    rng = np.random.default_rng(3)
    figures: Figures = {}
    for suffix, length in (("", 64), (".long", 448)):
        policy = GenerationPolicy(length)
        generator = HfGenerator(model, policy, frozenset())
        requests = [GenerationRequest(tuple(rng.integers(0, 32_000, 64).tolist()), int(rng.integers(2**63))) for _ in range(8)]
        completions = generator.generate(requests)
        rows = [request.prompt + completion.tokens for request, completion in zip(requests, completions, strict=True)]
        proofs = prove_rows(model, rows, [64] * 8, signs)
        positions = [challenged_positions(bytes(32), bytes([index]) * 32, length) for index in range(8)]

        def verify(
            rows: list[tuple[int, ...]] = rows,
            positions: list[list[int]] = positions,
            policy: GenerationPolicy = policy,
            requests: list[GenerationRequest] = requests,
            proofs: list[RowProof] = proofs,
            length: int = length,
        ) -> None:
            measured = measure_rows(model, rows, [64] * 8, positions, signs, policy, [r.sampling_seed for r in requests])
            sample = [
                compare(
                    index,
                    0,
                    claimed_sketches=parse_sketches(proof.sketches, length + 1)[np.array(at) + 1],
                    claimed_logprobs=proof.logprobs[at],
                    z=result.z,
                    logprobs=result.logprobs,
                    margins=result.margins,
                )
                for index, (proof, at, result) in enumerate(zip(proofs, positions, measured, strict=True))
            ]
            if any(statistic.rejects for statistic in evaluate(sample, pair)):
                raise RuntimeError("honest rows were rejected")

        verify()
        generate_s, verify_s = _alternating(partial(generator.generate, requests), verify, 5 if not suffix else 3)
        figures[f"verify.generate_ratio{suffix}"] = generate_s / verify_s
        figures[f"verify.generate_ms{suffix}"] = 1e3 * generate_s
        figures[f"verify.verify_ms{suffix}"] = 1e3 * verify_s
    return figures


def _median(action: Callable[[], object], repeats: int) -> float:
    """Seconds, median; the first call is not counted."""
    action()
    times = []
    for _ in range(repeats):
        started = time.process_time()
        action()
        times.append(time.process_time() - started)
    return statistics.median(times)


def _alternating(first: Callable[[], object], second: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Medians of two actions run in turn, so that a busy spell of the machine meets both."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for action, taken in zip((first, second), times, strict=True):
            started = time.process_time()
            action()
            taken.append(time.process_time() - started)
    return statistics.median(times[0]), statistics.median(times[1])


if __name__ == "__main__":
    print(json.dumps(_head_alone(sys.argv[1])))
