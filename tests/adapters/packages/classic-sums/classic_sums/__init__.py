"""Sums of two numbers in the form of verifiers before 0.4: `load_environment` gives a single-turn environment with a rubric."""

from typing import Any

import verifiers as vf
from datasets import Dataset


async def right(parser: vf.Parser, completion: Any, answer: str, **kwargs: Any) -> float:
    said = parser.parse_answer(completion)
    return float(said is not None and said.strip() == answer)


def short(completion: Any, **kwargs: Any) -> float:
    return float(len(completion[-1]["content"]) <= 40)


def characters(completion: Any) -> float:
    return float(len(completion[-1]["content"]))


def load_environment(count: int = 50, penalty: float = 0.5, turns: int = 1, judge: bool = False) -> vf.Environment:
    rows = [{"question": f"What is {7 * n} + {n * n}?", "answer": str(7 * n + n * n)} for n in range(count)]
    parser = vf.XMLParser(["answer"], answer_field="answer")
    rubric = vf.Rubric(funcs=[right, short], weights=[1.0, -penalty], parser=parser)
    rubric.add_metric(characters)
    system = "End with the number between answer tags, as in <answer>42</answer>."
    if judge:
        rubric = vf.JudgeRubric(parser=parser, judge_client=object())
    if turns > 1:
        return Talk(dataset=Dataset.from_list(rows), system_prompt=system, parser=parser, rubric=rubric, max_turns=turns)
    return vf.SingleTurnEnv(dataset=Dataset.from_list(rows), system_prompt=system, parser=parser, rubric=rubric)


class Talk(vf.MultiTurnEnv):
    async def env_response(self, messages: Any, state: Any, **kwargs: Any) -> Any:
        return [{"role": "user", "content": "again"}]
