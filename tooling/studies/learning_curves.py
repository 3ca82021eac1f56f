"""Learning curves in one process: what localnet's trainer would learn, without chain, miners or validators.

Each window the policy that was published two windows ago answers fresh problems (as on a network, where a checkpoint comes
into force two windows after the rollouts it was trained on), their behaviour log-probabilities are measured by the proof's own
forward pass, and the trainer's own update runs on them. Every checkpoint is evaluated on the same held-out problems. What is
simplified: one process draws all rollouts, and nothing is proved or refused.

    hatch run learn                              # sat, 8 windows, 48 groups of 16, three seeds, and the control run
    hatch run learn --windows 12 --groups 30 --seeds 1 --out curve.json
    hatch run learn --learning-rate 0            # the control alone
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from grail_core.commands.knob_options import knob_options
from grail_core.commands.options import run_cli
from grail_trainer.hyper_parameters import GrpoSettings, HyperParameters, OptimiserSettings


@dataclasses.dataclass(frozen=True)
class Point:
    """One checkpoint of one run; `window` windows of training are in it."""

    seed: int
    learning_rate: float
    window: int
    success: float
    success_error: float
    well_formed: float
    constant: float
    rollout_success: float | None = None  # of the rollouts it was trained on
    groups: int = 0  # that varied
    loss: float = 0.0
    entropy: float = 0.0
    gradient_norm: float = 0.0
    clip_share: float = 0.0
    kl_behaviour: float = 0.0
    changed_share: float = 0.0
    seconds_train: float = 0.0


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--env", "env_id", default="sat", show_default=True)
@click.option("--model", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Default: made for each seed.")
@click.option("--windows", default=8, show_default=True, type=click.IntRange(min=1))
@click.option("--groups", default=48, show_default=True, type=click.IntRange(min=1), help="Groups of 16 a window.")
@click.option("--stale", default=2, show_default=True, type=click.IntRange(min=1), help="Windows from rollout to checkpoint.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--first-seed", default=0, show_default=True)
@click.option("--problems", default=2048, show_default=True, type=click.IntRange(min=1))
@click.option("--every", default=1, show_default=True, type=click.IntRange(min=1), help="Evaluate every so many windows.")
@knob_options(OptimiserSettings, "optimiser", "learning_rate", "warmup_steps")
@knob_options(GrpoSettings, "chosen", "epochs", "minibatches", "kl_coefficient")
@click.option("--control/--no-control", default=True, show_default=True, help="Also run seed 0 with learning rate 0.")
@click.option("--cache-dir", type=click.Path(path_type=Path, file_okay=False))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the points as JSON.")
def main(
    env_id: str,
    model: Path | None,
    windows: int,
    groups: int,
    stale: int,
    seeds: int,
    first_seed: int,
    problems: int,
    every: int,
    optimiser: OptimiserSettings,
    chosen: GrpoSettings,
    control: bool,
    cache_dir: Path | None,
    out: Path | None,
) -> None:
    """Train in one process and print held-out success after every window."""
    settings = HyperParameters(chosen, optimiser)
    runs = [(first_seed + index, settings) for index in range(seeds)]
    if control and settings.optimiser.learning_rate:
        still = dataclasses.replace(optimiser, learning_rate=0.0)
        runs.append((first_seed, HyperParameters(chosen, still)))
    points: list[Point] = []
    click.echo(_HEADER)
    for seed, one in runs:
        folder = model or _model(env_id, seed, cache_dir)
        for point in curve(
            env_id, folder, one, seed=seed, windows=windows, groups=groups, stale=stale, problems=problems, every=every
        ):
            points.append(point)
            click.echo(_line(point))
        click.echo("")
    value = {"settings": settings.to_json(), "groups": groups, "stale": stale, "runs": _summary(points)}
    if out is not None:
        out.write_text(json.dumps(value | {"points": [dataclasses.asdict(point) for point in points]}, indent=1) + "\n")
    click.echo(json.dumps(value, indent=1))


def curve(
    env_id: str,
    folder: Path,
    settings: HyperParameters,
    *,
    seed: int,
    windows: int,
    groups: int,
    stale: int,
    problems: int,
    every: int = 1,
) -> Iterator[Point]:
    """Points of one run, the checkpoint before any training first."""
    import torch

    from grail_core.generation.defaults import sampling_defaults
    from grail_core.model.policy_model import PolicyModel
    from grail_core.model.prompts import PromptRenderer
    from grail_envs import load, load_held_out
    from grail_trainer.evaluate import evaluate
    from grail_trainer.learning.optimiser import Masters
    from grail_trainer.learning.update import update

    torch.set_num_threads(1)
    environment, held_out = load(env_id), load_held_out(env_id)
    defaults, renderer = sampling_defaults(folder), PromptRenderer(folder)
    policy, ends = defaults.policy, frozenset(defaults.end_tokens)
    updating = dataclasses.replace(settings.update, seed=seed)
    masters = Masters.load(folder, settings.optimiser)
    reference = PolicyModel.load(folder).module if updating.kl_coefficient else None
    serving = PolicyModel.load(folder)
    published = [masters.published()] * stale

    def point(window: int, **more: Any) -> Point:
        serving.load_state(published[-1])
        result = evaluate(serving, renderer, held_out, policy, tuple(ends), problems=problems, samples=1, constant=window == 0)
        return Point(
            seed,
            settings.optimiser.learning_rate,
            window,
            result.success,
            result.success_error,
            result.well_formed,
            result.constant,
            **more,
        )

    yield point(0)
    for window in range(windows):
        serving.load_state(published[window])
        batch, solved = _rollouts(serving, renderer, environment, policy, ends, groups, f"{seed}|{window}")
        start = time.perf_counter()
        statistics = update(
            masters,
            batch,
            updating,
            window=window,
            temperature=policy.temperature,
            token_limit=policy.max_tokens,
            reference=reference,
        )
        seconds = time.perf_counter() - start
        published.append(masters.published())
        if (window + 1) % every == 0 or window + 1 == windows:
            yield point(
                window + 1,
                rollout_success=solved,
                groups=len(batch),
                loss=statistics.loss,
                entropy=statistics.entropy,
                gradient_norm=statistics.gradient_norm,
                clip_share=statistics.clip_share,
                kl_behaviour=statistics.kl_behaviour,
                changed_share=_changed(published[-2], published[-1]),
                seconds_train=seconds,
            )


def _rollouts(
    model: Any, renderer: Any, environment: Any, policy: Any, ends: frozenset[int], groups: int, tag: str
) -> tuple[list[Any], float]:
    """Groups of one window that vary, with behaviour log-probabilities, and the mean success of all."""
    from grail_core.generation.base import GenerationRequest
    from grail_core.generation.hf import HfGenerator
    from grail_core.proof.batch import prove_rollouts
    from grail_core.proof.sketches import projections
    from grail_core.protocol import Randomness
    from grail_core.protocol.constants import ROLLOUTS_PER_PROBLEM
    from grail_core.protocol.types import Digest
    from grail_trainer.learning.advantages import varies
    from grail_trainer.learning.rollouts import Rollout, RolloutGroup, TokenSequence

    window_seed = Digest(hashlib.sha256(f"learn|{tag}".encode()).digest())
    signs = projections(Randomness(Digest(bytes(32))), window_seed, model.hidden_size)
    problems = [environment.problem(_word(window_seed, group)) for group in range(groups)]
    prompts = [renderer.render(environment.messages(problem)) for problem in problems]
    requests = [
        GenerationRequest(prompt, _word(window_seed, group, r) >> 1)
        for group, prompt in enumerate(prompts)
        for r in range(ROLLOUTS_PER_PROBLEM)
    ]
    completions = HfGenerator(model, policy, ends).generate(requests)
    batch, successes = [], []
    for group, (problem, prompt) in enumerate(zip(problems, prompts, strict=True)):
        answers = completions[group * ROLLOUTS_PER_PROBLEM : (group + 1) * ROLLOUTS_PER_PROBLEM]
        asked = environment.messages(problem)
        grades = [environment.grade(problem, renderer.decode_completion(answer.tokens, asked)) for answer in answers]
        successes += [grade.success for grade in grades]
        if not varies([grade.reward for grade in grades]):
            continue
        rows = [TokenSequence((*prompt, *answer.tokens), len(prompt)) for answer in answers]
        proofs = prove_rollouts(model, [row.tokens for row in rows], [len(prompt)] * len(rows), signs)
        batch.append(
            RolloutGroup(
                str(group),
                tuple(
                    Rollout(row, grade.reward, grade.success, proof.logprobs)
                    for row, grade, proof in zip(rows, grades, proofs, strict=True)
                ),
            )
        )
    return batch, sum(successes) / len(successes)


def _model(env_id: str, seed: int, cache_dir: Path | None) -> Path:
    """The folder that `grail-trainer init` makes for this seed, in the cache."""
    import tempfile

    from grail_core.participant.settings import load_settings
    from grail_envs import load
    from grail_trainer.tiny.init import create_model

    cache = cache_dir or load_settings().cache_dir
    folder = Path(tempfile.mkdtemp(prefix="grail-learn-")) / "model"
    create_model(load(env_id), folder, seed=seed, cache_dir=cache)
    return folder


def _changed(old: dict[str, Any], new: dict[str, Any]) -> float:
    """Share of published weights that differ."""
    changed = sum(int((old[name] != new[name]).sum()) for name in new)
    return changed / sum(int(tensor.numel()) for tensor in new.values())


def _word(seed: bytes, *parts: int) -> int:
    return int.from_bytes(hashlib.sha256(seed + repr(parts).encode()).digest()[:8], "big")


_HEADER = "seed     lr  win  held-out      ±  formed  rollouts  groups  entropy   norm   clip     kl  changed  train s"


def _line(p: Point) -> str:
    drawn = f"{p.rollout_success:8.3f}" if p.rollout_success is not None else "        "
    return (
        f"{p.seed:4} {p.learning_rate:6.0e} {p.window:4} {p.success:9.4f} {p.success_error:6.4f} {p.well_formed:7.3f}  {drawn}"
        f" {p.groups:7} {p.entropy:8.3f} {p.gradient_norm:6.2f} {p.clip_share:6.3f} {p.kl_behaviour:6.3f}"
        f" {p.changed_share:8.3f} {p.seconds_train:8.1f}"
    )


def _summary(points: list[Point]) -> list[dict[str, Any]]:
    """Before and after of every run."""
    found = []
    for key in dict.fromkeys((p.seed, p.learning_rate) for p in points):
        run = [p for p in points if (p.seed, p.learning_rate) == key]
        first, last = run[0], run[-1]
        error = (first.success_error**2 + last.success_error**2) ** 0.5
        found.append(
            {
                "seed": first.seed,
                "learning_rate": first.learning_rate,
                "windows": last.window,
                "eval_before": first.success,
                "eval_after": last.success,
                "ratio": last.success / first.success if first.success else None,
                "standard_errors_above": (last.success - first.success) / error if error else None,
                "format_before": first.well_formed,
                "format_after": last.well_formed,
                "eval_constant": first.constant,
            }
        )
    return found


if __name__ == "__main__":
    run_cli(main)
