"""`python -m tooling.localnet`."""

from __future__ import annotations

from tooling.localnet.cli import main

if __name__ == "__main__":
    main()
