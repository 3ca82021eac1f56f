"""The child's side of an evaluation: the command that anybody runs, ended with the trainer that started it."""

from __future__ import annotations

import sys

from grail_core.child_process.boot import end_with_parent


def main() -> None:
    end_with_parent()
    sys.argv[0] = "grail-trainer"
    from grail_trainer.cli import main as command

    command()


if __name__ == "__main__":
    main()
