"""Honest proofs on another instruction set: the same prover in a process whose kernels are held back.

    python -m tooling.studies.power_sizes.other_machines MODEL ASKED ANSWER

is what the process runs; MODEL is a folder, ASKED an npz of rows and projections, ANSWER the claims.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch

from grail_core.model.policy_model import PolicyModel
from grail_core.proof.batch import RolloutProof, prove_rollouts
from grail_core.proof.sketches import Projections
from tooling.adversaries.deviations.observation import Rollout
from tooling.adversaries.deviations.workbench import in_groups
from tooling.studies.power_sizes.records import Told, load_told, save_told
from tooling.studies.power_sizes.sized_bench import SizedBench

MACHINES: Final[Mapping[str, Mapping[str, str]]] = {
    "without bf16 instructions": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"},
    "held to AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
}
"""Environment of the process, by what it stands for."""


def prove(bench: SizedBench, rollouts: Sequence[Rollout], machine: str) -> list[RolloutProof]:
    """The protocol's own numerics (SDPA, one group a batch) on this machine."""
    with tempfile.TemporaryDirectory() as name:
        asked, answer, signs = (Path(name) / part for part in ("asked.npz", "answer.npz", "signs.npy"))
        save_told(asked, Told(rollouts, [RolloutProof(b"", np.zeros(0, np.float32)) for _ in rollouts]))
        np.save(signs, bench.setting.projections(bench.model.hidden_size))
        command = [sys.executable, "-m", __name__, str(bench.folders.policy), *map(str, (asked, signs, answer))]
        subprocess.run(command, env=os.environ | MACHINES[machine], check=True)
        return list(load_told(answer).claims)


def _answer(folder: Path, asked: Path, signs: Projections, answer: Path) -> None:
    torch.set_num_threads(1)
    model = PolicyModel.load(folder)
    rollouts = load_told(asked).rollouts
    claims: list[RolloutProof] = []
    for batch in in_groups(rollouts):
        claims += prove_rollouts(model, [one.tokens for one in batch], [one.prompt_length for one in batch], signs)
    save_told(answer, Told(rollouts, claims))


if __name__ == "__main__":
    model, asked, signs, answer = map(Path, sys.argv[1:])
    _answer(model, asked, np.load(signs), answer)
