"""`miner`: what a weight roll costs, and whether generation stands still while proofs run. The engine is the double.

    hatch run bench miner          a table
    hatch run bench miner --json   one flat object

The model is tiny and decodes on the CPU (`tooling.testing.engine_double`), so rows a second say nothing of a GPU. What the
miner itself does is what a miner does: manifests, deltas, folders, HTTP, two engines' interfaces, proofs, records. Engine and
prover each read `sync.weights_bytes` once; these being few, `sync.*` is what a roll costs beside that copy.

`sync.seconds.ENGINE`: from `at(manifest)` to the first token drawn with the new weights, the checkpoint being at hand as it is
after `ahead`; `sync.seconds.ENGINE.cold`: nothing at hand, the delta fetched, decoded and hashed first. `sync.pause_ms.ENGINE`:
from the engine's last step with the old weights to its first with the new ones, while batches follow one another. Medians of
the rolls; without a suffix the worst engine. `miner.*` is one window through the pipeline, with an engine that takes a scripted
time a step: `miner.groups_per_s.STAGE` is a stage's own rate while it works, `miner.groups_per_s` the window's,
`miner.slowest_share` the latter by the slowest stage's (1 is the floor's), `miner.idle_share` the share of the time in which a
proof ran, and there were groups left to draw, that nothing was drawn in. `sync.prover_s` is the prover's own load of the
weights, which goes on beside the engine's: no roll is faster.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from grail_core.generation.remote import RemoteGenerator
    from grail_core.protocol.manifest import CheckpointManifest
    from grail_miner.pipeline.trace import Span
    from tooling.testing.engine_double.double import EngineDouble
    from tooling.testing.engine_double.setup import Flavour
    from tooling.testing.network import Network

Figures = dict[str, float]

ENGINES: Final[tuple[Flavour, ...]] = ("sglang", "vllm")
ROLLS: Final = 9
GROUPS, BATCH = 24, 4
TOKENS: Final = 16
SECONDS_PER_STEP: Final = 0.02
PROMPTS: Final = 16


def measure() -> Figures:
    """Every figure of the benchmark, by its key."""
    figures: Figures = {}
    for engine in ENGINES:
        with tempfile.TemporaryDirectory() as folder:
            figures |= rolls(engine, Path(folder))
    for key in ("sync.seconds", "sync.pause_ms"):
        figures[key] = max(figures[f"{key}.{engine}"] for engine in ENGINES)
    with tempfile.TemporaryDirectory() as folder:
        figures |= window(Path(folder))
    figures["miner.load_average"] = os.getloadavg()[0]
    return figures


def rolls(engine: Flavour, root: Path) -> Figures:
    """Between two checkpoints and back, with rows that are drawn before and after each."""
    from grail_core.generation.base import GenerationRequest
    from grail_core.generation.engine_folder import EngineFolders
    from grail_miner.proving.in_process import InProcessProver
    from grail_miner.weight_roll import WeightRoll
    from tooling.testing.engine_double.double import EngineDouble
    from tooling.testing.network import Network

    network = Network(root / "network", miners=2, validators=0, max_tokens=TOKENS)
    first, second = network.manifest, publish_next(network)
    source = network.participant("miner-0").checkpoints
    figures: Figures = {"sync.weights_bytes": float(_weights_bytes(source.materialise(first)))}
    with EngineDouble.of(engine, source.materialise(first), dtype="bfloat16") as double:
        generator, prover, folders = client(engine, double.url), InProcessProver(), EngineFolders(root / "weights")
        roll = WeightRoll(source, generator, prover, folders=folders)
        requests = [GenerationRequest((1, 2, 3, seed), seed) for seed in range(PROMPTS)]
        seconds, pauses, loads = [], [], []
        try:
            for number in range(ROLLS + 2):
                manifest = (first, second)[number % 2]
                began = monotonic()
                prepared = roll.at(manifest)
                drawn = sum(1 for _ in generator.generate(requests, lambda: False))
                if drawn != len(requests):
                    raise RuntimeError(f"{drawn} of {len(requests)} rows")
                if number >= 2:  # from then on both are at hand
                    first_new, pause = _around_the_update(double)
                    seconds.append(first_new - began)
                    pauses.append(1000 * pause)
                    began = monotonic()
                    prover.load(prepared)
                    loads.append(monotonic() - began)
        finally:
            roll.close()
            generator.close()
    figures["sync.prover_s"] = statistics.median(loads)
    figures |= {f"sync.seconds.{engine}": statistics.median(seconds), f"sync.seconds.{engine}.worst": max(seconds)}
    figures |= {f"sync.pause_ms.{engine}": statistics.median(pauses), f"sync.pause_ms.{engine}.worst": max(pauses)}
    figures[f"sync.seconds.{engine}.cold"] = _cold(engine, network, (first, second), root)
    return figures


def _cold(engine: Flavour, network: Network, manifests: Sequence[CheckpointManifest], root: Path) -> float:
    """The second checkpoint with nothing of it at hand: another miner's cache, the delta in the trainer's bucket."""
    from grail_core.generation.base import GenerationRequest
    from grail_core.generation.engine_folder import EngineFolders
    from grail_miner.proving.in_process import InProcessProver
    from grail_miner.weight_roll import WeightRoll
    from tooling.testing.engine_double.double import EngineDouble

    source = network.participant("miner-1").checkpoints
    with EngineDouble.of(engine, source.materialise(manifests[0]), dtype="bfloat16") as double:
        generator = client(engine, double.url)
        roll = WeightRoll(source, generator, InProcessProver(), folders=EngineFolders(root / "cold"))
        try:
            roll.at(manifests[0])
            began = monotonic()
            roll.at(manifests[1])
            list(generator.generate([GenerationRequest((1, 2, 3), 1)], lambda: False))
            return next(event.at for event in double.engine.trace if event.what == "step") - began
        finally:
            roll.close()
            generator.close()


def _around_the_update(double: EngineDouble) -> tuple[float, float]:
    """When the first step after the last update was, and how long after the last step before it."""
    with double.engine.changed:
        trace = list(double.engine.trace)
    updated = max(index for index, event in enumerate(trace) if event.what == "updated")
    before = [event.at for event in trace[:updated] if event.what == "step"]
    after = [event.at for event in trace[updated:] if event.what == "step"]
    return after[0], after[0] - before[-1]


def window(root: Path) -> Figures:
    """One window of `GROUPS` groups through the shipped pipeline, the engine in a process of its own."""
    from grail_core.generation.engine_folder import EngineFolders
    from grail_miner.budget import TimeBudget
    from grail_miner.pipeline.stages import Pipeline, Plan, WindowClock
    from grail_miner.proving.in_process import InProcessProver
    from grail_miner.weight_roll import WeightRoll
    from tooling.testing.engine_double.process import EngineProcess
    from tooling.testing.mining import mining_of
    from tooling.testing.network import FIRST_WINDOW, Network

    network = Network(root / "network", miners=1, validators=0, max_tokens=TOKENS)
    network.advance_to(FIRST_WINDOW + 1)
    context = network.participant("miner-0").open_window(FIRST_WINDOW)
    source = network.participant("miner-0").checkpoints
    environment = {"ENGINE_DOUBLE_SECONDS_PER_STEP": str(SECONDS_PER_STEP)}
    with EngineProcess("sglang", source.materialise(network.manifest), environment=environment) as engine:
        generator, prover = client("sglang", engine.url), InProcessProver()
        roll = WeightRoll(source, generator, prover, folders=EngineFolders(root / "weights"))
        mining = mining_of(network, "miner-0")
        mining.generator, mining.prover, mining.checkpoint, mining.groups_per_batch = generator, prover, roll, BATCH
        try:
            prepared = mining.select_model(context)
            began = monotonic()
            clock = WindowClock(lambda: 1e6, lambda: round(1000 * (monotonic() - began)))
            budget = TimeBudget(0.0, 0.0, 0.0, 0.0, 0.0)
            plan = Plan(FIRST_WINDOW, GROUPS, BATCH, prover.slots)
            with Pipeline(mining.work(context, prepared), plan, budget, clock) as pipeline:
                made = pipeline.run(threading.Event())
                trace = pipeline.trace
        finally:
            roll.close()
            generator.close()
    if len(made.groups) != GROUPS:
        raise RuntimeError(f"{len(made.groups)} of {GROUPS} groups: {made.dropped}")
    stages = ("generate", "judge", "prove", "pack")
    figures = {f"miner.groups_per_s.{stage}": GROUPS / trace.seconds(stage) for stage in stages}
    figures["miner.groups_per_s"] = GROUPS / made.seconds
    figures["miner.slowest_share"] = figures["miner.groups_per_s"] / min(figures[f"miner.groups_per_s.{s}"] for s in stages)
    figures["miner.idle_share"] = idle_share(trace.spans)
    return figures


def idle_share(spans: Sequence[Span]) -> float:
    """Of the time in which something is proved and not all is drawn yet: the share in which nothing is drawn."""
    drawing = [(span.start, span.end) for span in spans if span.stage == "generate"]
    last = max(end for _, end in drawing)
    proving = [(span.start, min(span.end, last)) for span in spans if span.stage == "prove" and span.start < last]
    both = sum(max(0.0, min(end, other_end) - max(start, other)) for start, end in proving for other, other_end in drawing)
    total = sum(end - start for start, end in proving)
    return 1 - both / total if total else 0.0


def client(engine: Flavour, url: str) -> RemoteGenerator:
    """The miner's generator over a server that runs already."""
    from grail_core.generation.options import EngineOptions
    from grail_core.generation.sglang import SglangGenerator
    from grail_core.generation.vllm import VllmGenerator

    options = EngineOptions(engine, url=url, max_model_len=1024)
    kind: type[RemoteGenerator] = SglangGenerator if engine == "sglang" else VllmGenerator
    return kind(url, options, numerics_class="double")


def publish_next(network: Network) -> CheckpointManifest:
    """A second checkpoint, in which one weight in fifty is another."""
    import torch
    from transformers import Qwen2ForCausalLM

    from grail_core.checkpoints.publish import CheckpointParts, publish
    from grail_core.checkpoints.safety import read_model_files
    from grail_core.protocol.types import Window
    from tooling.testing.network import FIRST_WINDOW

    trainer, former, model = network.participant("trainer"), network.manifest, network.root / "model"
    parts = CheckpointParts(
        network_id=trainer.network_id,
        window=FIRST_WINDOW,
        valid_from=Window(FIRST_WINDOW + 60),
        environment=former.environment,
        policy=former.policy,
        end_token_ids=former.end_token_ids,
        thinking_mode=former.thinking_mode,
    )
    generator = torch.Generator().manual_seed(5)
    moved = {
        name: torch.where(torch.rand(tensor.shape, generator=generator) < 0.02, tensor * 1.5, tensor)
        for name, tensor in Qwen2ForCausalLM.from_pretrained(model, dtype=torch.bfloat16).state_dict().items()
    }
    moved["lm_head.weight"] = moved["model.embed_tokens.weight"]  # tied
    return publish(trainer.own_checkpoints, parts, moved, read_model_files(model), trainer.signer, trainer.params)


def _weights_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
