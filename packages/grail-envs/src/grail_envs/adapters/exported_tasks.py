"""An exported environment as a task set of `verifiers` from 0.4. Imported by exported packages alone."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import verifiers.v1 as vf

from grail_envs.adapters.exported import Exported


class GrailConfig(vf.TasksetConfig):
    """`num_tasks` problems (0: as many as were exported); `data_dir`: where the data sets lie, if the environment reads one."""

    num_tasks: int = 0
    data_dir: str = ""


class GrailData(vf.TaskData):
    """A problem is its seed."""

    seed: int


class GrailTask(vf.Task[GrailData]):
    """One problem, judged by GRAIL's own judge."""

    exported: Exported
    data_dir: str = ""

    @vf.reward(weight=1.0)
    async def grail_reward(self, trace: vf.Trace) -> float:
        return float((await self._grade(trace)).reward)

    @vf.metric
    async def grail_success(self, trace: vf.Trace) -> float:
        return float((await self._grade(trace)).success)

    async def _grade(self, trace: vf.Trace) -> Any:
        replies = trace.assistant_messages
        said = (replies[-1].content or "") if replies else ""
        return await asyncio.to_thread(self.exported.grade, self.data.seed, said, self.data_dir)


class GrailTaskset(vf.Taskset[GrailTask, GrailConfig]):
    """The problems of seeds 0, 1, …; a subclass says which environment."""

    exported: ClassVar[Exported]

    def load(self) -> list[GrailTask]:
        tasks = []
        for seed in range(self.config.num_tasks or self.exported.problems):
            messages = self.exported.messages(seed, self.config.data_dir)
            system = "\n\n".join(one["content"] for one in messages if one["role"] == "system") or None
            prompt = [one for one in messages if one["role"] != "system"]
            task = GrailTask(GrailData(prompt=prompt, system_prompt=system, seed=seed), self.config.task)
            task.exported, task.data_dir = self.exported, self.config.data_dir
            tasks.append(task)
        return tasks
