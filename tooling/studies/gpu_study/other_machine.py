"""The same weights and rows on another machine's numerics: a CPU beside a GPU, and a CPU held to an older instruction set.

`python -m tooling.studies.gpu_study.other_machine FOLDER ROWS OUT PROMPT` is the second of these: it loads the model of FOLDER
and writes the states of the rows in ROWS to OUT, in a process whose environment says what torch may use.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from grail_core.model.policy_model import PolicyModel
from tooling import REPOSITORY
from tooling.adversaries.deviations.observation import Rollout
from tooling.studies.gpu_study import honest
from tooling.studies.gpu_study.texts import in_batches

OLDER: Final = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "DNNL_MAX_CPU_ISA": "AVX2"}
_MOST_SECONDS: Final = 300.0


def states_on_older_cpu(model: PolicyModel, rollouts: Sequence[Rollout]) -> list[Tensor]:
    """The prescribed prefill of whole groups by a process without AVX-512.

    Raises:
        RuntimeError: it failed, or took too long.
    """
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as place:
        folder, rows, out = (Path(place) / name for name in ("model", "rows.json", "states.pt"))
        model.module.save_pretrained(folder)
        rows.write_text(json.dumps([[list(r.tokens) for r in batch] for batch in in_batches(rollouts)]))
        path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
        done = subprocess.run(
            [sys.executable, "-m", __name__, str(folder), str(rows), str(out), str(rollouts[0].prompt_length)],
            env={**os.environ, **OLDER, "PYTHONPATH": path, "OMP_NUM_THREADS": str(torch.get_num_threads())},
            capture_output=True,
            text=True,
            timeout=_MOST_SECONDS,
        )
        if done.returncode:
            raise RuntimeError(f"the process without AVX-512 ended with code {done.returncode}: {done.stderr[-300:]}")
        found: list[Tensor] = torch.load(out, weights_only=True)
    return found


def main(arguments: Sequence[str]) -> None:
    """In the process: see the top of this file."""
    folder, rows, out, prompt = arguments
    model = PolicyModel.load(folder)
    found: list[Tensor] = []
    for batch in json.loads(Path(rows).read_text()):
        found += [state.clone() for state in honest.prescribed(model, batch, int(prompt))]
    torch.save(found, out)


if __name__ == "__main__":
    main(sys.argv[1:])
