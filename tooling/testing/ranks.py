"""Several real processes that learn together, started by `torchrun`, and what each of them is asked to do.

A trial is a function of this module's caller: `module:function`, called in every process with its `Ranks` and the arguments
(JSON); what the first rank's returns comes back.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grail_trainer.learning.ranks import joined_ranks
from tooling import REPOSITORY


def torchrun(count: int, *command: str, timeout: float = 600, **variables: str) -> subprocess.CompletedProcess[str]:
    """`torchrun --nproc-per-node COUNT` of this interpreter with arguments, on a free port."""
    return subprocess.run(
        [*launcher(count), *command],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def launcher(count: int) -> list[str]:
    """The command that starts so many ranks, without what they run."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]


def together(count: int, trial: Callable[..., Any], *, tensor: int = 1, **arguments: Any) -> Any:
    """Call `trial(ranks, **arguments)` in so many processes; what the first one returns.

    Raises:
        AssertionError: one of them ended with an error.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "asked.json", Path(folder) / "answered.json"
        asked.write_text(json.dumps([trial.__module__, trial.__qualname__, tensor, arguments]))
        ended = torchrun(count, "-m", "tooling.testing.ranks", str(asked), str(answered))
        assert ended.returncode == 0, ended.stderr[-6000:]
        return json.loads(answered.read_text())


def main(asked: Path, answered: Path) -> None:
    module, name, tensor, arguments = json.loads(asked.read_text())
    trial = getattr(importlib.import_module(module), name)
    with joined_ranks("cpu", tensor=tensor) as ranks:
        result = trial(ranks, **arguments)
        if ranks.first:
            answered.write_text(json.dumps(result))
        ranks.meet()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
