"""`python -m tooling.testing.reported_cases [--cases FOLDER] [NAME …]`: every case of a folder of reports, right or not.

Exit code 1 where one is not. A folder that is not there is said and skipped: the cases are not part of the repository, what
they taught is (tests/cases).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from grail_core.text import printable
from tooling import REPOSITORY
from tooling.testing.reported_cases import completions, formulas, scripts, settings, stores
from tooling.testing.reported_cases.outcome import Outcome, Verdict, outcome

DEFAULT = REPOSITORY.parent / "shared" / "cases"
TABLES: dict[str, Callable[[str, list[dict[str, Any]]], Iterator[Outcome]]] = {
    "completions.json": completions.outcomes,
    "math_pairs.json": formulas.outcomes,
    "dotenv_cases.json": settings.outcomes,
    "store_answers.json": stores.outcomes,
}

FORMS = """\
The files are reports as they were sent, each in a form of its own (rows of tests/cases have other ones):
  math_pairs.json      gold, answer, right (true, false; null leaves it open), why
  completions.json     environment, completion (words in capitals stand for the right code or answer), right
  dotenv_cases.json    file, text or bytes, right ("an error that names line 1", a value, ...)
  store_answers.json   call, status, headers, body, right (a value, or an error's name)
  *.py                 prints "ok ..." or "WRONG ...", or "... (right: ...)", a case a line
"""


def outcomes_of(path: Path) -> Iterator[Outcome]:
    """Every case of one file; a file that nothing here reads is a wrong one, so that none is left out in silence."""
    try:
        if path.suffix == ".py":
            yield from scripts.outcomes(path)
        elif path.name in TABLES:
            yield from TABLES[path.name](path.name, json.loads(path.read_text(encoding="utf-8")))
        else:
            yield outcome(path.name, "the file", False, "nothing here reads it: add it to TABLES")
    except (ValueError, KeyError, TypeError, LookupError) as error:
        yield outcome(path.name, "the file", False, f"it is not in the form that is known: {type(error).__name__}: {error}")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="hatch run cases",
        description="Run reported cases.",
        epilog=FORMS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cases", type=Path, default=DEFAULT, metavar="FOLDER", help=f"where they lie (default: {DEFAULT})")
    parser.add_argument("--all", action="store_true", help="print what is right too")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these files")
    asked = parser.parse_args()
    if not asked.cases.is_dir():
        print(f"skipped: there is no folder {asked.cases} (--cases names another)")
        return 0
    paths = [path for path in sorted(asked.cases.iterdir()) if path.suffix in (".py", ".json")]
    unknown = set(asked.names) - {path.name for path in paths}
    if unknown:
        parser.error(f"no such file in {asked.cases}: {', '.join(sorted(unknown))}")
    counts = dict.fromkeys(Verdict, 0)
    for path in paths:
        if asked.names and path.name not in asked.names:
            continue
        found = list(outcomes_of(path)) or [outcome(path.name, "the file", False, "it told of no case")]
        for one in found:
            counts[one.verdict] += 1
            if asked.all or one.verdict is not Verdict.RIGHT:
                print(printable(f"{one.verdict.value:<5} {one.file}: {one.name}" + (f"  [{one.said}]" if one.said else "")))
        right = sum(one.verdict is Verdict.RIGHT for one in found)
        print(f"{right:>4} of {len(found):>3} right in {path.name}", flush=True)
    print(f"{counts[Verdict.RIGHT]} right, {counts[Verdict.WRONG]} wrong, {counts[Verdict.OPEN]} open or not tried")
    return int(counts[Verdict.WRONG] > 0)


if __name__ == "__main__":
    sys.exit(main())
