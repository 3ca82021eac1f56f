"""`hatch run sweep`: what the environments promise, over very many seeds and every row of the shared data.

    hatch run sweep                      everything (under 45 minutes on two cores)
    hatch run sweep --only seeds         20,000 seeds a generated family, 100,000 of sat: same bytes in two processes with other
                                         hash seeds, an independent solver agrees with the verifier, baselines
    hatch run sweep --only references    every reference solution of HumanEval and MBPP with both cores busy, every MATH-500 and
                                         GSM8K gold in all notations
    hatch run sweep --only formulas      20,000 pairs of formulas that are equal, or unequal, by how they are made: none judged
                                         wrong, none over 2 s of processor time
    hatch run sweep --only leaks         10,000 hostile runs leave no process, descriptor, temporary file or socket

`--json` prints one object; `--seeds`, `--pairs` and `--runs` make it smaller. The exit code is 1 if a promise is broken.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from grail_core.environment import Environment, Problem
from grail_envs import load
from grail_envs.sandbox import GraderPool, Job, Limits
from tooling import REPOSITORY

FAMILIES = (
    "dyck_completion",
    "dyck_prefix",
    "dyck_errors",
    "game_of_n",
    "custom_operators",
    "cryptarithm",
    "boolean_options",
    "sudoku",
)
FORMULA_S = 2.0
"""Processor time that a comparison of formulas may take."""

TESTS = REPOSITORY / "packages" / "grail-envs" / "tests"
Report = dict[str, Any]


def spread(number: int) -> int:
    """The seed of a number: spread over all of 64 bits."""
    return int.from_bytes(hashlib.sha256(f"sweep/{number}".encode()).digest()[:8], "big")


def generated(name: str) -> Environment:
    """A generated environment by the name the sweep gives it: a logic family, affine_trace or sat."""
    return load("affine_logic", families=[name]) if name in FAMILIES else load(name)


def problem_bytes(env: Environment, problem: Problem) -> bytes:
    """Everything of a problem: what is asked, and what the verifier knows."""
    asked = json.dumps([[message.role, message.content] for message in env.messages(problem)])
    return f"{asked}\n{problem.payload!r}\n".encode()


def digest_of(name: str, count: int) -> str:
    """SHA-256 over the problems of the first `count` seeds."""
    env = generated(name)
    digest = hashlib.sha256()
    for number in range(count):
        problem = env.problem(spread(number))
        digest.update(problem_bytes(env, problem))
    return digest.hexdigest()


def sweep_seeds(seeds: int) -> Report:
    """Determinism, agreement with an independent solver, and baselines, per generated family."""
    report: Report = {}
    for name in (*FAMILIES, "affine_trace", "sat"):
        count = 5 * seeds if name == "sat" else seeds
        digests = _digests_in_two_processes(name, count)
        found = {"seeds": count, "same_bytes": digests[0] == digests[1], **AGREEMENT.get(name, _agreement_logic)(name, count)}
        report[name] = found
        _say(f"{name}: {found}")
    return report


def _digests_in_two_processes(name: str, count: int) -> list[str]:
    command = [sys.executable, "-m", "tooling.studies.seed_sweeps", "--digest", name, "--seeds", str(count)]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONHASHSEED": hash_seed})
        for hash_seed in ("1", "4242")
    ]
    return [process.communicate()[0].strip() for process in running]


def _agreement_logic(name: str, count: int) -> Report:
    """The independent solver's answer is right to the verifier, on every seed it is quick on, and wrong ones are not."""
    from grail_envs.logic.independent import independent_answer

    env = generated(name)
    solved = disagreements = wrong_taken = 0
    answers: Counter[str] = Counter()
    previous = ""
    constant_hits = 0
    step = {"game_of_n": 10, "cryptarithm": 10, "sudoku": 4}.get(name, 1)  # searches: a share of the seeds
    for number in range(count):
        problem = env.problem(spread(number))
        right = env.reference(problem)  # type: ignore[attr-defined]
        answers[right] += 1
        if number % step == 0:
            answer = independent_answer(name, env.messages(problem)[1].content)
            solved += 1
            disagreements += not env.grade(problem, f"<answer>{answer}</answer>").success
        if previous:
            taken = env.grade(problem, previous).success
            constant_hits += taken
            wrong_taken += taken and previous != right and name not in ("game_of_n",)
        previous = right
    constant, most = answers.most_common(1)[0]
    return {
        "solved_independently": solved,
        "disagreements": disagreements + wrong_taken,
        "baseline_constant": round(most / count, 5),
        "baseline_random": round(constant_hits / count, 5),
        "constant": constant[:60],
    }


def _agreement_trace(name: str, count: int) -> Report:
    """CPython itself prints what the grammar's interpreter says: many programs a process, in the sandbox."""
    env = generated(name)
    pool = GraderPool("strict")
    step = 50

    def batch(start: int) -> int:
        problems = [env.problem(spread(number)) for number in range(start, min(start + step, count))]
        code = "\nprint('\\x01')\n".join(f"exec({problem.payload.program!r}, {{}})" for problem in problems)
        ruling = pool.grade(Job(code=code, program=True), Limits(cpu_s=20.0, wall_s=40.0))
        printed = ruling.output.split("\x01\n")
        wrong = sum(bool(problem.payload.expected != out) for problem, out in zip(problems, printed, strict=False))
        return wrong + len(problems) - len(printed)

    with ThreadPoolExecutor(2) as executor:
        wrong = sum(executor.map(batch, range(0, count, step)))
    pool.close()
    outputs = Counter(env.problem(spread(number)).payload.expected for number in range(min(count, 5000)))
    return {
        "solved_independently": count,
        "disagreements": wrong,
        "baseline_constant": round(outputs.most_common(1)[0][1] / sum(outputs.values()), 5),
    }


def _agreement_sat(name: str, count: int) -> Report:
    """A clause-by-clause reading of the question agrees with the verifier; constant, random and greedy baselines."""
    env = generated(name)
    agreed = 0
    hits: Counter[str] = Counter()
    random_hits = greedy_hits = 0
    for number in range(count):
        seed = spread(number)
        problem = env.problem(seed)
        clauses = _clauses_in(env.messages(problem)[1].content)
        size = problem.payload.variables
        guess = [seed >> place & 1 for place in range(size)]
        greedy = [
            int(sum((v > 0) - (v < 0) for clause in clauses for v in clause if abs(v) == place + 1) >= 0)
            for place in range(size)
        ]
        for kind, bits in (("random", guess), ("greedy", greedy), ("planted", list(problem.payload.planted))):
            success = env.grade(problem, _sat_answer(bits)).success
            expected = all(any(bits[abs(v) - 1] == (v > 0) for v in clause) for clause in clauses)
            agreed += success == expected
            random_hits += success and kind == "random"
            greedy_hits += success and kind == "greedy"
        for text in _constants(size):
            if all(any(text[abs(v) - 1] == (v > 0) for v in clause) for clause in clauses):
                hits[_sat_answer(text)] += 1
    constant, most = hits.most_common(1)[0]
    return {
        "solved_independently": count,
        "disagreements": 3 * count - agreed,
        "baseline_constant": round(most / count, 5),
        "baseline_random": round(random_hits / count, 5),
        "baseline_greedy": round(greedy_hits / count, 5),
        "constant": constant,
    }


def _constants(size: int) -> list[list[int]]:
    """Every assignment of the two smallest sizes, all zeros and all ones of the others."""
    if size <= 4:
        return [[value >> place & 1 for place in range(size)] for value in range(2**size)]
    return [[0] * size, [1] * size, [place % 2 for place in range(size)], [1 - place % 2 for place in range(size)]]


def _clauses_in(question: str) -> list[list[int]]:
    return [
        [-int(part[5:]) if part.startswith("not ") else int(part[1:]) for part in line.split(" or ")]
        for line in question.split("\n")[1:]
    ]


def _sat_answer(bits: list[int]) -> str:
    return "<answer>" + " ".join(f"x{place}={bit}" for place, bit in enumerate(bits, start=1)) + "</answer>"


AGREEMENT: dict[str, Callable[[str, int], Report]] = {"affine_trace": _agreement_trace, "sat": _agreement_sat}


def sweep_references() -> Report:
    """Every published solution and gold of the shared data (GRAIL_DATA_DIR)."""
    if not os.environ.get("GRAIL_DATA_DIR"):
        return {"skipped": "GRAIL_DATA_DIR is unset"}
    from grail_envs import humaneval, mbpp

    jobs = [(f"humaneval {row.task_id}", humaneval.job_of(row, row.reference)) for row in humaneval.HumanEvalEnvironment().rows]
    for subset in ("full", "sanitized"):
        for split in mbpp.SPLITS:
            rows = mbpp.MbppEnvironment(split, subset).rows
            jobs += [(f"mbpp {subset} {row.task_id}", mbpp.job_of(row, row.reference)) for row in rows]
    pool = GraderPool("strict")
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        with ThreadPoolExecutor(4) as executor:
            rulings = list(executor.map(lambda job: (job[0], pool.grade(job[1])), jobs))
    finally:
        for process in busy:
            process.kill()
            process.wait()
        pool.close()
    failed = [f"{name}: {ruling.stage} {ruling.detail}" for name, ruling in rulings if not ruling.passed]
    report = {"code_solutions": len(jobs), "code_failed": failed, **_golds()}
    _say(str(report))
    return report


def _golds() -> Report:
    from grail_envs.sandbox import math_side

    rewritings, notations = _test_module("formula_rewritings"), _test_module("test_envs_gsm8k").notations
    golds = [json.loads(line)["answer"] for line in (Path(os.environ["GRAIL_DATA_DIR"]) / "math" / "math500.jsonl").open()]
    wrong: list[str] = []
    tried = fewest = 0
    for gold in golds:
        same, different = rewritings.same(gold), rewritings.different(gold)
        tried += len(same) + len(different)
        fewest = min(fewest or len(same), len(same))
        wrong += [f"refused {one}" for one in same if not math_side.grade({"gold": gold, "answer": one})["passed"]]
        wrong += [f"taken {one}" for one in different if math_side.grade({"gold": gold, "answer": one})["passed"]]
    numbers = 0
    for split in ("train", "test"):
        env = load("gsm8k", split=split)
        for seed in range(len(env)):  # type: ignore[arg-type]
            problem = env.problem(seed)
            numbers += 1
            ways = notations(problem.payload.gold.value)
            wrong += [way for way in ways if not env.grade(problem, f"<answer>{way}</answer>").success]
    return {
        "math_golds": len(golds),
        "math_tried": tried,
        "math_fewest_rewritings": fewest,
        "gsm8k_golds": numbers,
        "golds_wrong": wrong,
    }


def _test_module(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, TESTS / f"{name}.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(TESTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sweep_formulas(count: int) -> Report:
    """Generated pairs of formulas: how many are judged wrong, and how long the slowest took."""
    from grail_envs.sandbox import math_side
    from tooling.testing.formula_pairs import formula_pair

    wrong: list[str] = []
    slow: list[str] = []
    equal = 0
    times = []
    for number in range(count):
        pair = formula_pair(number)
        started = time.process_time()
        passed = math_side.grade({"gold": pair.gold, "answer": pair.answer})["passed"]
        times.append(time.process_time() - started)
        equal += pair.right
        if passed != pair.right:
            wrong.append(f"pair {number}, {pair.kind}: {pair.gold} | {pair.answer} is {pair.right}")
        if times[-1] > FORMULA_S:
            slow.append(f"pair {number}, {pair.kind}: {times[-1]:.1f} s")
    times.sort()
    report = {
        "formula_pairs": count,
        "equal_pairs": equal,
        "median_ms": round(1000 * times[count // 2], 3),
        "slowest_ms": round(1000 * times[-1], 3),
        "wrong": wrong,
        "slow": slow,
    }
    _say(str(report))
    return report


def sweep_leaks(runs: int) -> Report:
    """Hostile programs again and again: what is left of them on the machine."""
    from tooling.adversaries.family_e import TESTS as SUITE
    from tooling.adversaries.family_e import Canaries
    from tooling.adversaries.hostile_programs import PROGRAMS

    names = sorted(PROGRAMS)
    limits = Limits(cpu_s=0.1, wall_s=0.15, memory_bytes=2**28)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        canaries = Canaries.placed(Path(folder))
        before = _machine()
        pool = GraderPool("strict")

        def one(number: int) -> bool:
            code = canaries.filled(PROGRAMS[names[number % len(names)]])
            ruling = pool.grade(Job(code=code, tests=SUITE, remote=("target",)), limits)
            return ruling.passed or canaries.broken(ruling)

        with ThreadPoolExecutor(3) as executor:
            accepted = sum(executor.map(one, range(runs)))
        pool.close()
        after = _machine()
        for _ in range(50):  # a killed process is still there until it has run once more; one that is left over stays
            if after["processes"] <= before["processes"]:
                break
            time.sleep(0.1)
            after = _machine()
        canaries.close()
    left = {name: after[name] - before[name] for name in before}
    report = {"hostile_runs": runs, "accepted": accepted, "left": left}
    _say(str(report))
    return report


def _machine() -> dict[str, int]:
    """What could be left behind: children of this process and orphans of the sandbox, descriptors, files, sockets, mounts."""
    processes = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            except OSError:
                continue
            processes += b"sandbox/zygote.py" in command and parent in (str(os.getpid()), "1")
    return {
        "processes": processes,
        "descriptors": len(os.listdir("/proc/self/fd")),
        "sockets": sum(os.readlink(f"/proc/self/fd/{fd}").startswith("socket") for fd in _descriptors()),
        "files": sum(1 for name in ("/tmp", "/var/tmp", "/dev/shm") for path in Path(name).iterdir() if _mine(path)),
        "mounts": len(Path("/proc/self/mounts").read_text().splitlines()),
    }


def _descriptors() -> list[str]:
    return [fd for fd in os.listdir("/proc/self/fd") if os.path.islink(f"/proc/self/fd/{fd}")]


def _mine(path: Path) -> bool:
    """Whether a file belongs to the sandbox's user or was made by a hostile program."""
    try:
        return path.stat().st_uid in (64937, 65534) or path.name in ("x", "s", "pickle", "shell", "written")
    except OSError:
        return False


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def broken(report: Report) -> list[str]:
    """The promises that the report breaks."""
    found = []
    for name, row in report.get("seeds", {}).items():
        if not row["same_bytes"] or row["disagreements"]:
            found.append(f"{name}: bytes differ or solvers disagree")
        if name == "sat" and row["baseline_constant"] > 0.05:
            found.append("sat: a constant answer solves more than 5 %")
    references = report.get("references", {})
    found += [*references.get("code_failed", []), *references.get("golds_wrong", [])]
    formulas = report.get("formulas", {})
    found += [*formulas.get("wrong", []), *formulas.get("slow", [])]
    leaks = report.get("leaks", {})
    if leaks.get("accepted") or any(count > 0 for count in leaks.get("left", {}).values()):
        found.append(f"hostile runs left something: {leaks}")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for and print the report."""
    parser = argparse.ArgumentParser(prog="hatch run sweep", description="Large sweeps over the environments.")
    parser.add_argument("--only", choices=("seeds", "references", "formulas", "leaks"), action="append")
    parser.add_argument("--seeds", type=int, default=20_000)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--digest", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args(arguments)
    if options.digest:
        print(digest_of(options.digest, options.seeds))
        return 0
    parts: dict[str, Callable[[], Report]] = {
        "seeds": lambda: sweep_seeds(options.seeds),
        "references": sweep_references,
        "formulas": lambda: sweep_formulas(options.pairs),
        "leaks": lambda: sweep_leaks(options.runs),
    }
    report: Report = {}
    for name, part in parts.items():
        if not options.only or name in options.only:
            started = time.monotonic()
            report[name] = part()
            report[f"{name}_s"] = round(time.monotonic() - started, 1)
    problems = broken(report)
    report["broken"] = problems
    print(json.dumps(report) if options.as_json else json.dumps(report, indent=2))
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
