"""`power`: what the proof detects, and after how many tokens, measured on a tiny language model trained for it.

    hatch run bench power             a table; writes docs/power.json and the plots beside it
    hatch run bench power --quick     a smaller model and fewer rollouts, minutes instead of a quarter of an hour
    hatch run bench power --json      one flat object, nothing else on standard output

Models and rollouts are kept in the project's cache folder (GRAIL_CACHE_DIR) under the digest of their recipe; a second run
only judges them again. The text is GSM8K from GRAIL_DATA_DIR, or this project's own sources.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tooling.power import report
from tooling.power.study import FULL, QUICK, Study

NAME = "power"
_DOCS = Path(__file__).resolve().parents[2] / "docs"


def measure() -> dict[str, float]:
    """Every figure of the full study, by its key."""
    return report.flat(report.summary(Study(FULL)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study and print it."""
    parser = argparse.ArgumentParser(prog="hatch run bench power", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller model and fewer rollouts; writes no docs")
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args(arguments)
    study = Study(QUICK if options.quick else FULL, say=lambda text: print(f"power: {text}", file=sys.stderr, flush=True))
    found = report.summary(study)
    if not options.quick:
        report.publish(study, found, _DOCS)
    print(json.dumps(report.flat(found)) if options.as_json else report.table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
