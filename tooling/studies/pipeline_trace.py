"""One real window of the shipped miner, drawn: what each stage did and when (`docs/pipeline.svg`).

A random model of Qwen2's kind generates in one thread while a copy of it proves in another, as an engine and a prover on two
devices do; environment, keys, files and store are the real ones, and the chain's clock stands. The first group of a run goes
alone, since nothing is known of how long anything takes; the rest in batches:

    python -m tooling.studies.pipeline_trace --svg docs/pipeline.svg
"""

from __future__ import annotations

import json
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch

from grail_core.checkpoints.loaded import PreparedCheckpoint
from grail_core.storage.retention import Retention
from grail_miner.pipeline.trace import GENERATE, PROVE
from grail_miner.proving.in_process import InProcessProver
from grail_miner.service import MinerService
from tooling.testing.driven_chain import Driven
from tooling.testing.mining import mining_of
from tooling.testing.models.tiny_qwen2 import END_TOKEN_ID, Qwen2Shape, save_byte_model
from tooling.testing.network import FIRST_WINDOW, Network


class OwnCopy(InProcessProver):
    """Proves with weights of its own, so that it waits for no step of the generator's."""

    def load(self, checkpoint: PreparedCheckpoint) -> None:
        super().load(
            PreparedCheckpoint(
                checkpoint.manifest, checkpoint.folder, checkpoint.renderer, checkpoint.description, checkpoint.pinned
            )
        )


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--groups", default=17, show_default=True, help="Groups of the window.")
@click.option("--batch", default=4, show_default=True, help="Groups generated at a time.")
@click.option("--tokens", default=64, show_default=True, help="Most tokens of a completion.")
@click.option("--hidden", default=192, show_default=True, help="Width of the model.")
@click.option("--svg", type=click.Path(path_type=Path, dir_okay=False), help="Where the drawing goes.")
def cli(groups: int, batch: int, tokens: int, hidden: int, svg: Path | None) -> None:
    """Mine one window and say how busy generator and prover were."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        shape = Qwen2Shape(END_TOKEN_ID + 1, hidden=hidden, layers=4, context=1024, spread=0.04, tied=True)
        network = Network(
            root / "network", miners=1, validators=0, max_tokens=tokens, model=save_byte_model(root / "model", shape)
        )
        torch.set_num_threads(1)  # a core for the generator, another for the prover
        spans = _mine(network, root / "trace", groups, batch)
        if svg is not None:
            svg.write_text((root / "trace" / f"window-{FIRST_WINDOW}.svg").read_text())
    for stage in (GENERATE, PROVE):
        own = [span for span in spans if span["stage"] == stage]
        first, last = min(span["start"] for span in own), max(span["end"] for span in own)
        busy = sum(span["end"] - span["start"] for span in own)
        click.echo(f"{stage}: {busy:.2f} s at work in the {last - first:.2f} s from its first to its last")


def _mine(network: Network, folder: Path, groups: int, batch: int) -> list[dict[str, Any]]:
    network.advance_to(FIRST_WINDOW + 1)
    mining = mining_of(network, "miner-0")
    mining.groups_per_batch, mining.prover = batch, OwnCopy()
    participant = replace(network.participant("miner-0"), chain=Driven(network.chain, limit=10**6))
    service = MinerService(participant, mining, Retention(participant.own_store, []), groups, 2, trace_dir=folder)
    service.run(threading.Event(), windows=1)
    spans: list[dict[str, Any]] = json.loads((folder / f"window-{FIRST_WINDOW}.json").read_text())["spans"]
    return spans


if __name__ == "__main__":
    cli()
