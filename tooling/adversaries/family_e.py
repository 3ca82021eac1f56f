"""E1, E2, E9, E10: hostile programs, answers that exhaust a grader, that spoil their judgement, and honest ones that are flaky.

E1 grades every hostile program with a suite whose answers it cannot know, in the real sandbox; it is accepted if the suite
passes, a secret shows, something outside was written, reached or killed, or an honest answer after it is judged wrong. E2
does the same with texts against every environment. E9 is accepted where an answer's judgement is called our fault. E10 is the
honest miner: its claim is one run, the validator's verdict is check 6 of the protocol, in another pool.
"""

from __future__ import annotations

import os
import secrets
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grail_core.environment import Environment, GradeOutcome
from grail_envs import load
from grail_envs.sandbox import GraderPool, Job, Limits, Ruling
from tooling import REPOSITORY
from tooling.adversaries.hostile_programs import PROGRAMS
from tooling.adversaries.inconclusive_programs import programs
from tooling.adversaries.quick import E10_RUNS as E10_QUICK_RUNS

EXPECTED = ((3, 7919), (10, -104729), (25, 1299709))
TESTS = tuple(f"assert target({n}) == {value}" for n, value in EXPECTED)
HONEST = "def target(n):\n    return {3: 7919, 10: -104729, 25: 1299709}[n]\n"
E1_LIMITS = Limits(cpu_s=0.6, wall_s=1.2, memory_bytes=2**29)
E2_SECONDS = 60.0  # a text must be judged within this on a busy machine; the CPU limits are far below
E10_RUNS = 10_000
E10_LIMITS = Limits(cpu_s=0.2, wall_s=0.4, memory_bytes=2**29)
FIXTURES = REPOSITORY / "packages" / "grail-envs" / "tests" / "fixtures"


@dataclass
class Canaries:
    """What a hostile program might find or break, and whether it did."""

    folder: Path
    secret: str
    listener: socket.socket
    datagrams: socket.socket
    abstract: socket.socket

    @classmethod
    def placed(cls, folder: Path) -> Canaries:
        secret = secrets.token_hex(16)
        (folder / "secret").write_text(secret)
        folder.chmod(0o777)
        (folder / "secret").chmod(0o666)
        os.environ["GRAIL_ATTACK_SECRET"] = secret
        listener = socket.create_server(("127.0.0.1", 0))
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind(listener.getsockname())
        abstract = socket.socket(socket.AF_UNIX)
        abstract.bind(f"\0{secret}")
        abstract.listen()
        for one in (listener, datagrams, abstract):
            one.setblocking(False)
        return cls(folder, secret, listener, datagrams, abstract)

    def filled(self, code: str) -> str:
        """A program with its `$NAME` parts."""
        parts = {
            "$SECRET": str(self.folder / "secret"),
            "$FOLDER": str(self.folder),
            "$HOST_PID": str(os.getpid()),
            "$PORT": str(self.listener.getsockname()[1]),
            "$ABSTRACT": self.secret,
            "$MARK": self.secret,
            "$EXPECTED_AT": f"{dict(EXPECTED)!r}.get(-n)",
            "$EXPECTED": str(EXPECTED[0][1]),
        }
        for name, value in parts.items():
            code = code.replace(name, value)
        return code

    def broken(self, ruling: Ruling) -> bool:
        """Whether a secret showed or something outside was touched."""
        shown = ruling.detail + ruling.output
        telling = ("passwd root", "listed [", "maps 5", "maps 7", "mem 1", "mem 4", "socket 1", "socket 4", "True{")
        if self.secret in shown or any(text in shown for text in telling):
            return True
        if sorted(path.name for path in self.folder.iterdir()) != ["secret"]:
            return True
        return any(_reached(one) for one in (self.listener, self.abstract)) or _datagram(self.datagrams)

    def close(self) -> None:
        """Take them away."""
        os.environ.pop("GRAIL_ATTACK_SECRET", None)
        for one in (self.listener, self.datagrams, self.abstract):
            one.close()


def run_e1(
    *, seed: int = 0, tries: int | None = None, pool: GraderPool | None = None, limits: Limits = E1_LIMITS
) -> dict[str, Any]:
    """Hostile programs. `tries`: runs in all (default: every program once); afterwards 100 honest answers in a row."""
    own = pool or GraderPool("strict")
    details: list[dict[str, Any]] = []
    honest_tries = honest_rejects = 0
    names = sorted(PROGRAMS)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        canaries = Canaries.placed(Path(folder))
        try:
            for number in range(tries or len(names)):
                name = names[(number + seed) % len(names)]
                ruling = own.grade(suite_of(canaries.filled(PROGRAMS[name])), limits)
                after = own.grade(suite_of(HONEST), limits)
                honest_tries += 1
                honest_rejects += not after.passed
                accepted = ruling.passed or canaries.broken(ruling) or not after.passed
                if number < len(names) or accepted:
                    details.append({"name": name, "accepted": accepted, "stage": ruling.stage, "message": ruling.detail})
            with ThreadPoolExecutor(4) as executor:
                rulings = list(executor.map(lambda _: own.grade(suite_of(HONEST), limits), range(100)))
        finally:
            canaries.close()
            if pool is None:
                own.close()
    honest_tries += 100
    honest_rejects += sum(not ruling.passed for ruling in rulings)
    return _row("E1", "program", tries or len(names), details, "sandbox", honest_tries, honest_rejects)


def hostile_texts() -> dict[str, str]:
    """Texts that make some grader slow: for any environment."""
    deep = "(" * 500_000
    return {
        "one_megabyte": "x" * 2**20,
        "binary": "\x00\x01\ufffd" * 300_000,
        "open_tags": "<answer>" * 10**5,
        "close_tags": "</answer>" * 10**5,
        "nested_tags": "<answer>" * 50_000 + "</answer>" * 50_000,
        "nested_brackets": f"<answer>{deep}</answer>",
        "nested_braces": "<answer>\\boxed" + "{" * 10**6 + "</answer>",
        "power_tower": "<answer>9**9**9**9</answer>",
        "power_tower_latex": "<answer>9^{9^{9^{9^9}}}</answer>",
        "factorial_tower": "<answer>((9!)!)!</answer>",
        "endless_sum": "<answer>\\sum_{n=1}^{10^{15}} \\sin(n)</answer>",
        "long_number": f"<answer>{'9' * 10**6}</answer>",
        "many_digits_after_point": f"<answer>0.{'3' * 10**6}</answer>",
        "huge_exponent": "<answer>1e999999999</answer>",
        "python_call": "<answer>__import__('os').system('true')</answer>",
        "pattern": f"<answer>{'a' * 5000}!</answer>",
        "spaces": f"<answer>{' ' * 10**6}1</answer>",
        "commas": f"<answer>{'1,' * 500_000}</answer>",
        "fences": "```\n" * 10**5,
        "fence_nest": "```python\n" + "(" * 60_000 + "\n```",
        "think_tags": "<think>" * 10**5 + "</think>" * 10**5,
        "fraction_nest": "<answer>" + "\\frac{1}{" * 60 + "7" + "}" * 60 + "</answer>",
        "variables": "<answer>" + " ".join(f"x{n}=1" for n in range(10**5)) + "</answer>",
        "backslashes": f"<answer>{chr(92) * 10**6}</answer>",
        "surrogates": "<answer>\ud800</answer>" * 1000,
    }


def run_e2(*, seed: int = 0) -> dict[str, Any]:
    """Hostile texts against every environment, and an honest answer after each."""
    targets: list[tuple[Environment, str]] = []
    gsm8k = load("gsm8k", split="test", data_dir=str(FIXTURES))
    targets.append((gsm8k, f"<answer>{gsm8k.problem(seed).payload.gold.value}</answer>"))
    math = load("math", split="train", data_dir=str(FIXTURES))
    targets.append((math, f"<answer>{math.problem(seed).payload.gold}</answer>"))
    for name in ("affine_logic", "affine_trace"):
        env = load(name)
        targets.append((env, env.reference(env.problem(seed))))  # type: ignore[attr-defined]
    for name in ("mbpp", "humaneval"):
        env = load(name, data_dir=str(FIXTURES))
        row = env.problem(seed).payload
        code = row.reference if name == "mbpp" else row.prompt + row.reference
        targets.append((env, f"```python\n{code}\n```"))
    sat = load("sat")
    planted = " ".join(f"x{n}={value}" for n, value in enumerate(sat.problem(seed).payload.planted, start=1))
    targets.append((sat, f"<answer>{planted}</answer>"))
    details, honest_tries, honest_rejects = [], 0, 0
    for env, right in targets:
        problem = env.problem(seed)
        for name, text in hostile_texts().items():
            started = time.monotonic()
            grade = env.grade(problem, text)
            took = time.monotonic() - started
            honest_tries += 1
            honest_rejects += not env.grade(problem, right).success
            accepted = grade.success or took > E2_SECONDS or grade.outcome is not GradeOutcome.GRADED
            details.append(
                {
                    "name": f"{env.spec.env_id}/{name}",
                    "accepted": accepted,
                    "seconds": round(took, 3),
                    "message": grade.detail,
                }
            )
    return _row("E2", "program", len(details), details, "reward", honest_tries, honest_rejects)


FLAKY: dict[str, str] = {
    "random": "import random\ndef target(n): return random.random() < 0.5",
    "fresh_random": "import random\ndef target(n): return random.Random().random() < 0.5",
    "system_random": "import secrets\ndef target(n): return secrets.randbelow(2) == 0",
    "uuid": "import uuid\ndef target(n): return uuid.uuid4().int % 2 == 0",
    "clock": "import time\ndef target(n): return time.time_ns() // 1000 % 2 == 0",
    "counter": "import time\ndef target(n): return time.perf_counter_ns() % 3 == 0",
    "date": "import datetime\ndef target(n): return datetime.datetime.now().microsecond % 2 == 0",
    "hash_order": "def target(n): return list({'a', 'b', 'c', 'd'})[0] in 'ab'",
    "text_hash": "def target(n): return hash('some text') % 2 == 0",
    "threads": (
        "import threading\ndef target(n):\n    seen = []\n    every = [threading.Thread(target=seen.append, args=(k,))"
        " for k in range(4)]\n    [t.start() for t in every]; [t.join() for t in every]\n"
        "    return sorted(seen) == [0, 1, 2, 3]"
    ),
    "near_cpu_limit": (
        "import resource\ndef used():\n    u = resource.getrusage(0)\n    return u.ru_utime + u.ru_stime\n"
        "def target(n):\n    while used() < 0.19: pass\n    return True"
    ),
    "near_time_limit": "import time\ndef target(n):\n    time.sleep(0.375)\n    return True",
}


def inconclusive(pool: GraderPool, chosen: Mapping[str, str], limits: Limits = E1_LIMITS) -> dict[str, Ruling]:
    """Of these programs, those whose judgement is not a failure of theirs. None should be."""
    rulings = {name: pool.grade(suite_of(code), limits) for name, code in chosen.items()}
    return {name: ruling for name, ruling in rulings.items() if ruling.passed or not ruling.conclusive}


def run_e9(*, seed: int = 0, tries: int | None = None, quick: bool = False, pool: GraderPool | None = None) -> dict[str, Any]:
    """Every way to spoil one's own judgement, and an honest answer after each."""
    own = pool or GraderPool("strict")
    every = programs()
    names = [name for number, name in enumerate(sorted(every)) if not quick or number % 4 == seed % 4][:tries]
    details, honest_rejects = [], 0
    try:
        for name in names:
            spoilt = inconclusive(own, {name: every[name]})
            message = spoilt[name].detail if spoilt else "graded: failed"
            details.append({"name": name, "accepted": bool(spoilt), "message": message})
            honest_rejects += not own.grade(suite_of(HONEST), Limits()).passed
    finally:
        if pool is None:
            own.close()
    return _row("E9", "program", len(names), details, "sandbox", len(names), honest_rejects)


def run_e10(*, seed: int = 0, tries: int | None = None, quick: bool = False) -> dict[str, Any]:
    """Honest flaky answers through check 6: the claim from the miner's pool, the verdict from the validator's."""
    tries = tries or (E10_QUICK_RUNS if quick else E10_RUNS)
    miner, validator = GraderPool("strict"), GraderPool("strict")
    names = sorted(FLAKY)
    steady = [name for name in names if not name.startswith("near")]
    slow = [name for name in names if name.startswith("near")]

    def one(number: int) -> tuple[str, str]:
        name = slow[number // 50 % len(slow)] if number % 50 == 0 else steady[(number + seed) % len(steady)]
        job = Job(code=FLAKY[name], tests=("assert target(1)",), remote=("target",))
        claim = miner.grade(job, E10_LIMITS)
        return name, check_six(claim.passed, lambda: validator.grade(job, E10_LIMITS))

    with ThreadPoolExecutor(4) as executor:
        outcomes = list(executor.map(one, range(tries)))
    miner.close()
    validator.close()
    rejects = sum(outcome == "reject" for _, outcome in outcomes)
    row = _row("E10", "program", tries, [], "reward", tries, rejects)
    row["unstable"] = sum(outcome == "unstable" for _, outcome in outcomes)
    row["rejected"] = sorted({name for name, outcome in outcomes if outcome == "reject"})
    return row


def check_six(claim: bool, judged: Callable[[], Ruling]) -> str:
    """Section 9, check 6: accept, reject or unstable."""
    runs = [judged()]
    if runs[0].passed == claim:
        return "accept"
    runs += [judged(), judged()]
    if not all(run.conclusive for run in runs):
        return "inconclusive"
    if len({run.passed for run in runs}) > 1 or any(run.limit_share > 0.6 for run in runs):
        return "unstable"
    return "reject"


ATTACKS: dict[str, Callable[..., dict[str, Any]]] = {"E1": run_e1, "E2": run_e2, "E9": run_e9, "E10": run_e10}


def suite_of(code: str) -> Job:
    """An answer before tests whose right values it cannot know."""
    return Job(code=code, tests=TESTS, remote=("target",))


def _reached(listener: socket.socket) -> bool:
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def _datagram(receiver: socket.socket) -> bool:
    try:
        receiver.recv(10)
    except BlockingIOError:
        return False
    return True


def _row(
    id_: str, unit: str, tries: int, details: list[dict[str, Any]], caught_by: str, honest_tries: int, honest_rejects: int
) -> dict[str, Any]:
    accepted = sum(bool(item["accepted"]) for item in details)
    return {
        "id": id_,
        "status": "built",
        "unit": unit,
        "tries": tries,
        "accepted": accepted,
        "caught_by": caught_by,
        "honest_tries": honest_tries,
        "honest_false_rejects": honest_rejects,
        "details": details,
    }
