"""`verifiers` packages in the process that holds them: `load_environment(**arguments)` of releases before 0.4, and task sets.

What is run of the library is its scoring: every reward function to its end, with its weight. Rollouts are not: there is no
model, tool, sandbox or network here. So an environment of several turns, with tools, set-up code or a judge that is a model
is refused when it is loaded, with the reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import inspect
import itertools
import json
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from grail_envs.adapters.foreign_side import MAX_ROWS, Adapted, RefusedError, plain_messages
from grail_envs.adapters.own_modules import OwnModules


class NotScoredError(Exception):
    """A reward function gave no reward, or several."""


SINGLE_TURN = "only tasks of a single turn, without tools, are adapted"


def adapt(options: dict[str, Any], own: OwnModules) -> Adapted:
    """The environment of a package, by whichever form it has and the installed library knows.

    Raises:
        RefusedError: it has neither, or is more than a single turn judged by code.
    """
    module = own.imported(options["module"])
    if callable(getattr(module, "load_environment", None)) and _library("verifiers.envs.singleturn_env") is not None:
        own.attribute(f"{module.__name__}:load_environment", module.__name__)
        return LoadedEnvironment(module, options)
    if _library("verifiers.v1") is None:
        raise RefusedError(
            f"{module.__name__} has no load_environment, and the installed verifiers has no task sets",
            "pip install 'verifiers>=0.4'",
        )
    return LoadedTasks(module, options, own)


class LoadedEnvironment:
    """`load_environment(**arguments)`, which gives a `SingleTurnEnv` with a rubric."""

    def __init__(self, module: ModuleType, options: dict[str, Any]) -> None:
        vf = importlib.import_module("verifiers")
        arguments = _with_folder(options, inspect.signature(module.load_environment).parameters)
        self._env = env = module.load_environment(**arguments)
        if not isinstance(env, vf.SingleTurnEnv):
            raise RefusedError(f"load_environment gives a {type(env).__name__}, which is no SingleTurnEnv", SINGLE_TURN)
        for hook in ("setup_state", "rollout", "env_response", "get_model_response"):
            if getattr(type(env), hook, None) is not getattr(vf.SingleTurnEnv, hook, None):
                raise RefusedError(f"{type(env).__name__} has a {hook} of its own, which is not run here", SINGLE_TURN)
        if getattr(env, "message_type", "chat") != "chat":
            raise RefusedError("it asks for a completion of a text", "only conversations are adapted")
        if getattr(env, "oai_tools", None) or getattr(env, "tool_defs", None):
            raise RefusedError("it offers tools", SINGLE_TURN)
        self.weights: dict[str, float] = {}
        self._raised: list[BaseException] = []
        for rubric in _rubrics(env.rubric):
            if isinstance(rubric, vf.JudgeRubric):
                raise RefusedError(
                    f"its rubric is a {type(rubric).__name__}: it asks a model, whose word nobody can check",
                    "judge by code",
                )
            for function, weight in zip(rubric.funcs, rubric.weights, strict=True):
                if rubric._is_group_func(function):
                    raise RefusedError(f"{function.__name__} compares the answers of a group", "judge each answer by itself")
                if function.__name__ in self.weights and (weight or self.weights[function.__name__]):
                    raise RefusedError(
                        f"two of its reward functions are called {function.__name__}, so that one's reward hides the other's",
                        "give each function a name of its own (__name__)",
                    )
                self.weights[function.__name__] = float(weight)
            rubric.funcs = [
                self._told(function) if weight else function
                for function, weight in zip(rubric.funcs, rubric.weights, strict=True)
            ]
        self._rows = [dict(row) for row in _dataset(env, options["split"], options["most_rows"])]

    def rows(self) -> Iterator[tuple[list[dict[str, str]], str]]:
        for number, row in enumerate(self._rows):
            prompt = row["prompt"]
            messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            yield plain_messages(messages, number), json.dumps(row, sort_keys=True, default=str)

    def judge(self, index: int, text: str) -> tuple[float, dict[str, float]]:
        row = self._rows[index]
        typed = getattr(_library("verifiers.utils.message_utils"), "normalize_messages", None)
        asked, said = row["prompt"], [{"role": "assistant", "content": text}]
        state = importlib.import_module("verifiers.types").State(
            input=row,
            prompt=typed(asked) if typed and not isinstance(asked, str) else asked,
            completion=typed(said) if typed else said,  # releases before 0.1.14 hand dictionaries to a judge
            answer=row.get("answer", ""),
            info=row.get("info") or {},
            task=row.get("task", "default"),
            example_id=row.get("example_id", index),
            trajectory=[],
            timing={"generation_ms": 0.0, "scoring_ms": 0.0, "total_ms": 0.0},
            reward=None,
            metrics=None,
            is_completed=True,
            is_truncated=False,
        )
        score = self._env.rubric.score_rollout
        crowd = {"score_sem": contextlib.nullcontext()} if "score_sem" in inspect.signature(score).parameters else {}
        self._raised.clear()
        asyncio.run(score(state, **crowd))
        if self._raised:  # the library counts it 0, which pays for breaking a penalty
            raise self._raised[0]
        return float(state["reward"]), {name: float(value) for name, value in (state["metrics"] or {}).items()}

    def _told(self, function: Any) -> Any:
        """A reward function that remembers what it raises."""

        def tell(error: BaseException) -> None:
            self._raised.append(error)

        @functools.wraps(function)
        def told(*args: Any, **kwargs: Any) -> Any:
            try:
                given = function(*args, **kwargs)
                return awaited(given) if inspect.isawaitable(given) else float(given)
            except BaseException as error:
                tell(error)
                raise

        async def awaited(given: Any) -> float:
            try:
                return float(await given)
            except BaseException as error:
                tell(error)
                raise

        return told


class LoadedTasks:
    """A task set of releases from 0.4: typed tasks with `@reward` methods, judged on a trace of one reply."""

    def __init__(self, module: ModuleType, options: dict[str, Any], own: OwnModules) -> None:
        vf = self._vf = importlib.import_module("verifiers.v1")
        taskset_type = _exported(module, vf, own)
        generic = importlib.import_module("verifiers.v1.utils.generic")
        config_type = generic.concrete_type(taskset_type, vf.TasksetConfig, origin=vf.Taskset) or vf.TasksetConfig
        _refuse_imports(options["arguments"])
        arguments = _with_folder(options, config_type.model_fields)
        taskset = taskset_type(config_type.model_validate({**arguments, "id": module.__name__}))
        most = options["most_rows"]
        if not taskset.bounded and not most:
            raise RefusedError("its tasks never end", "give --param most_rows=N: the first N are used")
        if taskset.toolsets(taskset.config):
            raise RefusedError("its tasks share tools", SINGLE_TURN)
        self._tasks = list(itertools.islice(taskset.take(most) if most else taskset, MAX_ROWS + 1))
        self.weights: dict[str, float] = {}
        for number, task in enumerate(self._tasks):
            _refuse_more_than_a_reply(vf, task)
            weights = {function.__name__: float(getattr(function, "_vf_weight", 1.0)) for function in task.hooks("reward")}
            if number and weights != self.weights:
                raise RefusedError(
                    f"task {number} ({type(task).__name__}) has other reward functions or weights than the first "
                    f"({type(self._tasks[0]).__name__})",
                    "one set of rewards for all tasks is adapted: make each kind a task set of its own",
                )
            self.weights = weights

    def rows(self) -> Iterator[tuple[list[dict[str, str]], str]]:
        for number, task in enumerate(self._tasks):
            data = task.data
            if data.prompt is None:
                raise RefusedError(f"row {number} has no prompt: a simulated user opens", SINGLE_TURN)
            prompt = [{"role": "user", "content": data.prompt}] if isinstance(data.prompt, str) else data.prompt
            system = [{"role": "system", "content": data.system_prompt}] if data.system_prompt else []
            yield system + plain_messages(prompt, number), json.dumps(data.model_dump(mode="json"), sort_keys=True)

    def judge(self, index: int, text: str) -> tuple[float, dict[str, float]]:
        vf, task = self._vf, self._tasks[index]
        asked = [{"role": "user", "content": task.data.prompt}] if isinstance(task.data.prompt, str) else task.data.prompt
        nodes: list[Any] = []
        for number, message in enumerate([*asked, {"role": "assistant", "content": text}]):
            nodes.append({"parent": number - 1 if number else None, "message": message, "sampled": number == len(asked)})
        trace = vf.Trace(
            task=vf.TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash),
            agent=vf.AgentInfo(config=vf.AgentConfig()),
            verifiers=vf.VersionInfo(version=""),
            state=importlib.import_module("verifiers.v1.state").state_cls(type(task))(),
            nodes=[vf.MessageNode.model_validate(node) for node in nodes],
            is_completed=True,
            ok=True,
            stop_condition="agent_completed",
        )
        asyncio.run(task.score(trace))
        given = dict(trace.rewards)
        unscored = [name for name, reward in given.items() if reward is None]
        if unscored or given.keys() != self.weights.keys():  # one that gives several, or none, has no bounds
            raise NotScoredError
        return sum(reward.value for reward in given.values()), {name: reward.score for name, reward in given.items()}


def _exported(module: ModuleType, vf: Any, own: OwnModules) -> Any:
    """The one task set that the module exports, by the library's rule, if the package itself defines it.

    The library's own loader is not asked: it looks for an id among its own task sets first, and imports what an id says.
    """
    exported = [getattr(module, str(name), None) for name in getattr(module, "__all__", ())]
    classes = [one for one in exported if isinstance(one, type)]
    if any(issubclass(one, vf.Env) for one in classes):
        raise RefusedError("it brings an Env of its own, of several agents or steps", SINGLE_TURN)
    found = [one for one in classes if issubclass(one, vf.Taskset) and one is not vf.Taskset]
    if len(found) != 1 or not own.defines(found[0]):
        raise RefusedError(
            f"{module.__name__} exports {len(found)} task sets of its own",
            "its __all__ names one subclass of vf.Taskset, defined in it",
        )
    return found[0]


def _refuse_imports(arguments: Any) -> None:
    """An `id` or a `fn` in a configuration is a module that the library would import, whoever's it is."""
    if "system_prompt" in arguments:
        raise RefusedError(
            "its arguments name a file (system_prompt)", "a file is nothing that a network can say: leave it out"
        )
    waiting = [arguments]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if {"id", "fn", "judges"} & one.keys():
                raise RefusedError(
                    "its arguments name code to be imported (id, fn or judges)",
                    "only what the package itself defines is run: leave them out",
                )
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


def _refuse_more_than_a_reply(vf: Any, task: Any) -> None:
    kind = type(task)
    for hook in ("setup", "finalize", "stage_verifier"):
        if getattr(kind, hook, None) is not getattr(vf.Task, hook, None):
            raise RefusedError(f"{kind.__name__} has a {hook} of its own, which needs a machine to run on", SINGLE_TURN)
    if kind.NEEDS_CONTAINER or task.data.skills or task.toolsets(task.config):
        raise RefusedError(f"{kind.__name__} needs a container, skills or tools", SINGLE_TURN)
    if task.config.judges:
        raise RefusedError("it is judged by a model, whose word nobody can check", "judge by code")
    for function in task.hooks("reward"):
        wanted = inspect.signature(function).parameters.get("runtime")
        if wanted is not None and wanted.default is wanted.empty:
            raise RefusedError(f"{function.__name__} needs a machine to run on", SINGLE_TURN)


def _with_folder(options: dict[str, Any], known: Any) -> dict[str, Any]:
    """The arguments, with the data folder of whoever asks where the package takes one; it is never in the spec."""
    arguments = dict(options["arguments"])
    if options["data_dir"] and "data_dir" in known:
        arguments["data_dir"] = options["data_dir"]
    return arguments


def _dataset(env: Any, split: str, most: int) -> Any:
    rows = env.get_dataset() if split == "train" else env.get_eval_dataset()
    return rows.select(range(min(most, len(rows)))) if most else rows


def _rubrics(rubric: Any) -> list[Any]:
    return [one for inner in getattr(rubric, "rubrics", None) or [] for one in _rubrics(inner)] or [rubric]


def _library(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
