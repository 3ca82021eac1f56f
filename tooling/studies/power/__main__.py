"""`power`: what the proof detects, and after how many tokens, measured on a tiny language model trained for it.

    hatch run bench power                        the figures; writes docs/power.json and the plots beside it
    hatch run bench power --json                 one flat object, nothing else on standard output
    python -m tooling.studies.power              the table for a person, `--quick` for a smaller model and fewer rollouts

Models and rollouts are kept in the project's cache folder (GRAIL_CACHE_DIR) under the digest of their recipe; a second run
only judges them again: half an hour on one core the first time, three minutes then. The text is GSM8K from GRAIL_DATA_DIR, or
the language reference that every CPython ships.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from tooling import REPOSITORY
from tooling.adversaries.deviations.size import FULL, QUICK, Size
from tooling.studies.power import report
from tooling.studies.power.study import Study

_DOCS = REPOSITORY / "docs"


def measure() -> dict[str, float]:
    """Every figure of the full study, by its key; the table goes to standard output and the plots to docs/."""
    found = _run(FULL)
    print(report.table(found))
    return report.flat(found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study and print it."""
    parser = argparse.ArgumentParser(prog="python -m tooling.studies.power", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller model and fewer rollouts; writes no docs")
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args(arguments)
    found = _run(QUICK if options.quick else FULL)
    print(json.dumps(report.flat(found)) if options.as_json else report.table(found))
    return 0


def _run(size: Size) -> dict[str, Any]:
    study = Study(size, say=lambda text: print(f"power: {text}", file=sys.stderr, flush=True))
    found = report.summary(study)
    if size is FULL:
        report.publish(study, found, _DOCS)
    return found


if __name__ == "__main__":
    sys.exit(main())
