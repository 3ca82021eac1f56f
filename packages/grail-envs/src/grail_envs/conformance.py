"""What every environment must keep, tried: `grail-envs check` for those who write one.

Determinism (the same problems in two processes with different hash seeds), digest stability (the same spec in both), bounds
(rewards finite and in [0, 1], components finite, success a truth value), robustness (no text raises, none of them succeeds),
speed (generation under 2 ms at the median and 50 ms at worst), capabilities (what it offers does what it is for; what its
teacher says is worth nothing where it is only thought). An environment may add checks: `own_checks()` gives names, whether each
is passed, and what it found.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from grail_core.capabilities import best_constant_of, capabilities_of, teacher_of
from grail_core.environment import THINK_CLOSE, THINK_OPEN, Environment, GradeOutcome
from grail_core.errors import GrailError
from grail_envs.registry import factory, load, load_held_out

MEDIAN_MS: Final = 2.0
WORST_MS: Final = 50.0
HOSTILE_TEXTS: Final = (
    "",
    "x" * 2**20,
    "\x00\ufffd" * 1000,
    "<answer>" * 10**5,
    "</answer>" * 10**5,
    "<answer>9**9**9**9</answer>",
    "<answer>" + "(" * 10**5 + "</answer>",
    "<answer></answer>",
    "```\n" * 10**4,
    "<think>" * 1000,
)


@dataclass(frozen=True)
class Finding:
    """One check of an environment."""

    env_id: str
    check: str
    passed: bool
    value: str


def fingerprint(env: Environment, seeds: int) -> str:
    """SHA-256 over the spec's digest and the messages of the first `seeds` seeds and the last one."""
    digest = hashlib.sha256(env.spec.digest)
    for seed in (*range(seeds), 2**64 - 1):
        problem = env.problem(seed)
        digest.update(json.dumps([[message.role, message.content] for message in env.messages(problem)]).encode())
        digest.update(repr(problem.seed).encode())
    return digest.hexdigest()


def check(env_id: str, parameters: Mapping[str, Any], *, seeds: int = 200) -> list[Finding]:
    """All checks of one environment.

    Raises:
        EnvironmentUnavailableError: it cannot be loaded.
        ConfigurationError: it does not take the parameters.
    """
    env = load(env_id, **parameters)
    own_checks: Callable[[], list[tuple[str, bool, str]]] = getattr(env, "own_checks", list)
    own = [Finding(env_id, *one) for one in own_checks()]  # first: where nothing can be judged, nothing else is worth saying
    findings = [_same_in_other_processes(env, env_id, parameters, seeds)]

    def found(check: str, passed: bool, value: str) -> None:
        findings.append(Finding(env_id, check, passed, value))

    found("protocol", isinstance(env, Environment) and env.spec.env_id == env_id, f"spec names {env.spec.env_id!r}")
    found("digest", len(env.spec.digest) == 32, env.spec.digest.hex()[:16])
    times = [_seconds(lambda seed=seed: env.problem(seed)) for seed in range(seeds)]  # type: ignore[misc]
    median, worst = 1000 * statistics.median(times), 1000 * max(times)
    found("speed", median <= MEDIAN_MS and worst <= WORST_MS, f"median {median:.3f} ms, worst {worst:.2f} ms")
    broken = [text[:20] for seed in range(3) for text in HOSTILE_TEXTS if not _sound(env, seed, text)]
    found("bounds", not broken, "rewards in [0, 1], hostile texts fail" if not broken else f"broken by {broken[0]!r}")
    found("capabilities", *_capabilities(env, env_id, parameters))
    return findings + own


def _capabilities(env: Environment, env_id: str, parameters: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether what is offered works, and its names: held-out problems can be had, demonstrations repeat and are well formed."""
    try:
        offered = capabilities_of(env)
        problems = [env.problem(seed) for seed in range(8)]
        if offered.held_out is not None:
            held_out = load_held_out(env_id, **parameters)
            if held_out.spec.digest == env.spec.digest and not _is_held_out(env_id, parameters, offered.held_out):
                return False, "held_out: the same problems as those that are trained on (equal digests)"
        best_constant_of(env, problems)
        for stage in teacher_of(env).stages:
            texts = [stage.demonstrate(problem, random.Random(problem.seed)) for problem in problems]
            if texts != [stage.demonstrate(problem, random.Random(problem.seed)) for problem in problems]:
                return False, "teacher: another demonstration from the same generator"
            if not all(env.grade(problem, text).well_formed for problem, text in zip(problems, texts, strict=True)):
                return False, "teacher: a demonstration is not well formed"
            thought = [(problem, said) for problem, text in zip(problems, texts, strict=True) for said in _only_thought(text)]
            if any(env.grade(problem, said).reward != 0 for problem, said in thought):
                return False, "teacher: a demonstration that is only thought, between the tags of thinking, is paid"
    except GrailError as error:
        return False, error.what
    names = [field.name for field in dataclasses.fields(offered) if getattr(offered, field.name)]
    return True, ", ".join(names) or "none offered"


def _is_held_out(env_id: str, parameters: Mapping[str, Any], held_out: Mapping[str, Any]) -> bool:
    """Whether these very parameters, or the defaults, ask for the problems that nobody trains on."""
    defaults = {name: one.default for name, one in inspect.signature(factory(env_id)).parameters.items()}
    chosen = {**defaults, **parameters}
    return all(chosen.get(name) == value for name, value in held_out.items())


def _only_thought(text: str) -> tuple[str, ...]:
    """The text within thinking that is never closed, is closed, was opened by the prompt, and is a second thought."""
    closed = f"{THINK_OPEN}{text}{THINK_CLOSE}no"
    return f"{THINK_OPEN}{text}", closed, f"{text}{THINK_CLOSE}", f"{THINK_OPEN}so{THINK_CLOSE}no{closed}"


def _same_in_other_processes(env: Environment, env_id: str, parameters: Mapping[str, Any], seeds: int) -> Finding:
    program = (
        "import json, sys; from grail_envs.registry import load; from grail_envs.conformance import fingerprint; "
        "print(fingerprint(load(sys.argv[1], **json.loads(sys.argv[2])), int(sys.argv[3])))"
    )
    command = [sys.executable, "-c", program, env_id, json.dumps(dict(parameters)), str(seeds)]
    outputs = {fingerprint(env, seeds)}
    for hash_seed in ("0", "31337"):
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": hash_seed}, check=False
        )
        outputs.add(done.stdout.strip() or done.stderr.strip()[-200:])
    return Finding(env_id, "determinism", len(outputs) == 1, f"{len(outputs)} fingerprint(s) in 3 processes")


def _sound(env: Environment, seed: int, text: str) -> bool:
    try:
        grade = env.grade(env.problem(seed), text)
    except Exception:  # noqa: BLE001 - `grade` never raises: whatever it raises is the finding
        return False
    numbers = (grade.reward, grade.limit_share, *grade.components.values())
    return (
        all(math.isfinite(number) for number in numbers)
        and 0.0 <= grade.reward <= 1.0
        and grade.success is False
        and isinstance(grade.outcome, GradeOutcome)
    )


def _seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
