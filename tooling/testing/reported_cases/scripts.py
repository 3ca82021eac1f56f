"""Python files: each prints its cases, `ok` or `WRONG` in front, or `(right: …)` behind; run in a process of its own.

`(right: …)` is read for what it asks: `0`, `the same`, `finite`, an error's name or `refused`. A script whose line has none
says it in its docstring, behind `Right:`. A case that raises is right where it may be refused.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tooling import REPOSITORY
from tooling.testing.reported_cases.outcome import Outcome, Verdict, outcome

TIME_LIMIT_S = 600
_RIGHT = re.compile(r"\(right: (.*?)\)?$")
_ERROR = re.compile(r"\b[A-Z]\w*Error\b")


def outcomes(path: Path) -> Iterator[Outcome]:
    """One outcome for each case that the script prints, or would have printed."""
    run = [sys.executable, "-m", f"{__package__}.script_run", str(path.resolve())]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])}
    try:
        ended = subprocess.run(run, capture_output=True, text=True, env=environ, timeout=TIME_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        yield outcome(path.name, "the script", False, f"it did not end in {TIME_LIMIT_S} s")
        return
    if ended.returncode:
        yield outcome(path.name, "the script", False, ended.stderr.strip()[-300:])
        return
    told = json.loads(ended.stdout.splitlines()[-1])
    yield from _of_statements(path.name, told["about"], told["statements"], told["refused"])


def _of_statements(file: str, about: str, statements: list[dict[str, Any]], refused: list[str]) -> Iterator[Outcome]:
    wanted = re.search(r"\bRight: (.*?)(?:\.\s|\.?$)", about, re.DOTALL)
    right, failed, seen = wanted[1] if wanted else "", statements[0], False
    for one in statements:
        for found in _printed(file, one["printed"]):
            seen = True
            yield found
        if not one["error"]:
            continue
        if re.match("ModuleNotFoundError|ImportError|AttributeError: module", one["error"]):
            yield Outcome(
                file, about.partition("\n")[0], Verdict.OPEN, f"not tried, this version has other names: {one['error']}"
            )
            return
        failed = failed if one["error"].startswith("NameError") and failed["error"] else one
        cases = [match[1] for match in map(_RIGHT.search, one["texts"]) if match]
        if cases or "WRONG" in " ".join(one["texts"]):
            seen = True
            name = next((text.strip(" :") for text in one["texts"] if not _RIGHT.search(text)), about)
            yield _raised(file, name if cases else about.partition("\n")[0], cases[0] if cases else right, failed)
    if not seen and failed["error"]:
        yield _raised(file, about.partition("\n")[0], right, failed)
    elif not seen and right.startswith("refused"):  # it caught what a reader said, and printed figures
        yield outcome(file, about.partition("\n")[0], bool(refused), "; ".join(refused) or "nothing was refused")


def _printed(file: str, text: str) -> Iterator[Outcome]:
    lines = text.splitlines()
    for at, line in enumerate(lines):
        word, _, rest = line.partition(" ")
        match = _RIGHT.search(line)
        if word in ("ok", "ok:", "WRONG", "WRONG:"):
            more = [one.strip() for one in lines[at + 1 :] if one.startswith("  ")][:2] if word.startswith("WRONG") else []
            yield outcome(file, rest.strip(), word.startswith("ok"), "; ".join(more))
        elif match:
            yield _by_its_right(file, line[: match.start()].strip(), match[1])


def _by_its_right(file: str, printed: str, right: str) -> Outcome:
    words = printed.split()
    if right.startswith("0"):
        return outcome(file, printed, abs(_number(words[-1])) < 1e-4, f"right: {right}")
    if "the same" in right:
        return outcome(file, printed, len(words) > 1 and words[-1] == words[-2], f"right: {right}")
    if "finite" in right and not _ERROR.search(right):
        return outcome(file, printed, math.isfinite(_number(words[-1])), f"right: {right}")
    if _ERROR.search(right) or "refused" in right:
        return outcome(file, printed, False, f"right: {right}")
    return Outcome(file, printed, Verdict.OPEN, f"right: {right}")


def _raised(file: str, name: str, right: str, statement: dict[str, Any]) -> Outcome:
    named = statement["error"].partition(":")[0] in _ERROR.findall(right)
    return outcome(file, name, named or ("refused" in right and statement["refusal"]), f"{statement['error']} (right: {right})")


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan
