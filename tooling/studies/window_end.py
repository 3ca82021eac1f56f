"""What the end of a miner's window costs: records' digests, file, own checks and seal, by groups and tokens.

    python -m tooling.studies.window_end --groups 313 --tokens 1000
    python -m tooling.studies.window_end --groups 190 --tokens 8000

Prompts, header and signatures are the shipped miner's; completions are random bytes of exactly the limit, log-probabilities and
sketches random, so that they compress no better than real ones. All checks of 1 to 5 look at every row.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import click
import numpy as np

from grail_core.protocol import RolloutRecord, count_groups
from grail_core.protocol.constants import ROLLOUTS_PER_PROBLEM
from grail_core.protocol.rollouts.records import rollout_digests
from grail_miner.groups import Group
from grail_miner.pipeline.work import WindowWork
from tooling.testing.mining import mining_of
from tooling.testing.models.tiny_qwen2 import END_TOKEN_ID, Qwen2Shape, save_byte_model
from tooling.testing.network import FIRST_WINDOW, Network

T = TypeVar("T")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--groups", default=313, show_default=True, help="Groups of the file.")
@click.option("--tokens", default=1000, show_default=True, help="Tokens of each completion.")
@click.option("--times", default=3, show_default=True, help="Measured so often; the middle one is told, and the range.")
def cli(groups: int, tokens: int, times: int) -> None:
    """Time the steps between the last group and the upload."""
    with tempfile.TemporaryDirectory() as folder:
        shape = Qwen2Shape(END_TOKEN_ID + 1, context=12_288, spread=0.08, tied=True)
        model = save_byte_model(Path(folder) / "model", shape)
        network = Network(Path(folder) / "network", miners=1, validators=0, max_tokens=tokens, model=model)
        network.advance_to(FIRST_WINDOW + 1)
        mining = mining_of(network, "miner-0")
        context = network.participant("miner-0").open_window(FIRST_WINDOW)
        prepared = mining.select_model(context)
        made = [_group(mining.work(context, prepared), number, tokens) for number in range(groups)]
        records = [record for group in made for record in group.rollouts]
        digests, pack, check, seal = [], [], [], []
        for _ in range(times):
            digests.append(_timed(partial(rollout_digests, context.network_id, records))[1])
            data, seconds = _timed(partial(mining.bind, context, prepared, records, count_groups(range(groups))))
            pack.append(seconds)
            fault, seconds = _timed(partial(mining.own_fault, context, prepared, data))
            check.append(seconds)
            if fault is not None:
                raise click.ClickException(f"{fault.check}: {fault.detail}")
            seal.append(_timed(partial(mining.seal, context, data))[1])
    click.echo(f"{groups} groups of {tokens} tokens: {len(data) / 2**20:.0f} MiB")
    for name, measured in (("pack", pack), ("of it digests", digests), ("own checks", check), ("seal", seal)):
        click.echo(f"  {name}: {sorted(measured)[times // 2]:.2f} s ({min(measured):.2f} to {max(measured):.2f})")
    click.echo(f"  peak of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


def _group(work: WindowWork, number: int, tokens: int) -> Group:
    rng = np.random.default_rng(number)
    prompt = work.assign(number).prompt
    return Group(
        number,
        tuple(
            RolloutRecord(
                group=number,
                rollout=rollout,
                tokens=np.concatenate([np.array(prompt, np.int32), rng.integers(0, END_TOKEN_ID, tokens, np.int32)]),
                prompt_length=len(prompt),
                logprobs=-rng.exponential(0.5, tokens).astype(np.float32) - np.float32(1e-3),
                sketches=rng.normal(0, 3000, 4 * (tokens + 1)).astype("<i2").tobytes(),
                reward=0.0,
                success=False,
            )
            for rollout in range(ROLLOUTS_PER_PROBLEM)
        ),
    )


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


if __name__ == "__main__":
    cli()
