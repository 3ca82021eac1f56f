"""An exported environment as a `SingleTurnEnv` of `verifiers` before 0.4. Imported by exported packages alone."""

from __future__ import annotations

import asyncio
from typing import Any

import verifiers as vf
from datasets import Dataset

from grail_envs.adapters.exported import Exported


def environment_of(exported: Exported, num_examples: int, data_dir: str) -> Any:
    """The problems of seeds 0, 1, … as a data set, and a rubric that calls our judge."""
    rows = [
        {"prompt": exported.messages(seed, data_dir), "answer": "", "info": {"seed": seed}}
        for seed in range(num_examples or exported.problems)
    ]

    async def grade(completion: Any, info: Any) -> Any:
        said = completion if isinstance(completion, str) else completion[-1]["content"] or ""
        return await asyncio.to_thread(exported.grade, int(info["seed"]), said, data_dir)

    async def grail_reward(completion: Any, info: Any) -> float:
        return float((await grade(completion, info)).reward)

    async def grail_success(completion: Any, info: Any) -> float:
        return float((await grade(completion, info)).success)

    rubric = vf.Rubric(funcs=[grail_reward], weights=[1.0])
    rubric.add_metric(grail_success)
    return vf.SingleTurnEnv(dataset=Dataset.from_list(rows), rubric=rubric)
