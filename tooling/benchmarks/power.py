"""The power study by its name among the benchmarks; everything is in `tooling.power`."""

from __future__ import annotations

import sys

from tooling.power.bench import main, measure

NAME = "power"

__all__ = ["NAME", "main", "measure"]

if __name__ == "__main__":
    sys.exit(main())
