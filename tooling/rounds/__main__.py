"""`python -m tooling.rounds`."""

from __future__ import annotations

from tooling.rounds.cli import main

if __name__ == "__main__":
    main()
