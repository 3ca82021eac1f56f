"""GSM8K's word problems, judged by the number between answer tags."""

import gzip
import json
import re
from decimal import Decimal, InvalidOperation
from pathlib import Path

import verifiers.v1 as vf

SYSTEM = "Solve the problem. End with the number alone between answer tags, as in <answer>42</answer>."


class WordProblemsData(vf.TaskData):
    """A question; `gold` is the number behind the last mark of the published answer."""

    gold: str


class WordProblemsTask(vf.Task[WordProblemsData]):
    """Nine tenths for the right number, one for any."""

    @vf.reward(weight=0.9)
    async def right(self, trace: vf.Trace) -> float:
        said, gold = number_in(trace.last_reply), Decimal(self.data.gold)
        return float(said is not None and said == gold)

    @vf.reward(weight=0.1)
    async def form(self, trace: vf.Trace) -> float:
        return float(number_in(trace.last_reply) is not None)

    @vf.metric
    async def characters(self, trace: vf.Trace) -> float:
        return float(len(trace.last_reply))


class WordProblemsConfig(vf.TasksetConfig):
    num_tasks: int = 100
    """How many, from the first on."""

    split: str = "test"
    data_dir: str = ""
    """Folder that holds gsm8k/."""


class WordProblemsTaskset(vf.Taskset[WordProblemsTask, WordProblemsConfig]):
    def load(self) -> list[WordProblemsTask]:
        rows = read_rows(Path(self.config.data_dir), self.config.split)[: self.config.num_tasks]
        return [
            WordProblemsTask(
                WordProblemsData(
                    prompt=row["question"],
                    system_prompt=SYSTEM,
                    gold=row["answer"].rpartition("####")[2].strip().replace(",", ""),
                ),
                self.config.task,
            )
            for row in rows
        ]


def read_rows(folder: Path, split: str) -> list[dict[str, str]]:
    for name, opened in ((f"{split}.jsonl", open), (f"{split}.jsonl.gz", gzip.open)):
        path = folder / "gsm8k" / name
        if path.is_file():
            with opened(path, "rt", encoding="utf-8") as stream:
                return [json.loads(line) for line in stream if line.strip()]
    raise FileNotFoundError(f"no gsm8k/{split}.jsonl in the data folder {folder}")


def number_in(reply: str) -> Decimal | None:
    found = re.findall(r"<answer>\s*\$?(-?[\d,]{1,40}(?:\.\d{1,40})?)\s*</answer>", reply)
    try:
        return Decimal(found[-1].replace(",", "")) if found else None
    except InvalidOperation:
        return None
