"""What the code environments share: the code in a completion, and a sandbox ruling as a grade.

The asked form is one Python block in a fence; the last one counts (`answer_text.last_python`). Code is never parsed on the
host: even a parser is a program that hostile text can hang or crash, so everything that looks at code runs in the sandbox.
"""

from __future__ import annotations

import ast
import warnings
from fractions import Fraction
from typing import Final

from grail_core.environment import Grade
from grail_envs.answer_text import last_python
from grail_envs.reward_table import Component, RewardTable
from grail_envs.sandbox.jobs import Job, Limits, Ruling

MAX_CODE_CHARACTERS: Final = 65536
LIMITS: Final = Limits(cpu_s=8.0, wall_s=16.0, memory_bytes=2**30)
CODE_REWARDS: Final = RewardTable(
    Component("tests", Fraction(9, 10), "every test of the suite passes"),
    Component("format", Fraction(1, 10), "there is a Python block in a fence, and it compiles"),
)
CODE_SYSTEM: Final = (
    "Write Python 3 code that solves the task. End your reply with one block of complete code between ```python and ```; "
    "only the last block is run. Do not print anything and do not read input."
)


def code_of(completion: str) -> str | None:
    """The last Python block after the thinking; None without one or above `MAX_CODE_CHARACTERS`."""
    return last_python(completion, limit=MAX_CODE_CHARACTERS)


def graded_in_sandbox(job: Job) -> Grade:
    """Run the whole suite in this process's pool."""
    from grail_envs.sandbox.pool import shared_pool

    return grade_of(shared_pool().grade(job, LIMITS))


def grade_of(ruling: Ruling) -> Grade:
    """A ruling with the reward table of code."""
    if not ruling.conclusive:
        return CODE_REWARDS.inconclusive(ruling.detail)
    compiled = not (ruling.stage == "code" and ruling.detail.startswith(("SyntaxError", "IndentationError", "TabError")))
    return CODE_REWARDS.graded(
        {"tests": float(ruling.passed), "format": float(compiled)},
        success=ruling.passed,
        well_formed=compiled,
        detail=f"{ruling.stage}: {ruling.detail}" if ruling.detail else ruling.stage,
        limit_share=ruling.limit_share,
    )


NO_CODE: Final = CODE_REWARDS.graded({}, success=False, well_formed=False, detail="no Python block")


def defined_names(code: str) -> set[str]:
    """The functions, classes and variables that a data set's own code defines at its top level."""
    found: set[str] = set()
    for node in _parsed(code).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.For | ast.If | ast.While):
            found |= {name.id for name in ast.walk(node) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)}
    return found


def imports_of(code: str) -> str:
    """The import statements at the top level of a data set's own code."""
    kept = [node for node in _parsed(code).body if isinstance(node, ast.Import | ast.ImportFrom)]
    return "\n".join(ast.unparse(node) for node in kept)


def used_names(*codes: str) -> set[str]:
    """Every name that a data set's own code mentions."""
    return {node.id for code in codes for node in ast.walk(_parsed(code)) if isinstance(node, ast.Name)}


def problem_of_module(code: str) -> str:
    """Why a data set's own code is no module by itself; "" where it is one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(code, "<row>", "exec", dont_inherit=True)
            ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        return f"{getattr(error, 'msg', None) or str(error) or type(error).__name__}{line}"
    return ""


def _parsed(code: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # published solutions hold odd escapes
        return ast.parse(code)
