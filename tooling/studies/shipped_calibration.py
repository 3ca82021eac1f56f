"""Make the calibration table that ships with `grail-core`, from two kinds of checkpoints.

Localnet's models: each is what `grail-trainer init` makes, then trained for a few windows as localnet's trainer would; every
checkpoint on the way counts. Language models: those of the power study, of other seeds than the one that attacks are judged on,
some trained to the end and some for a third of it; their completions are long, and their drift is that of a model that has
learned text. Half an hour on one core; GRAIL_DATA_DIR should have GSM8K, which the language models learn.

    python -m tooling.studies.shipped_calibration --version bf16-cpu/2
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from grail_core.commands.options import run_cli
from grail_trainer.hyper_parameters import GrpoSettings, OptimiserSettings
from tooling import REPOSITORY

if TYPE_CHECKING:
    from grail_core.calibration.measure import Source

_SHIPPED = REPOSITORY / "packages/grail-core/src/grail_core/proof/calibration.json"
_PLOT = REPOSITORY / "docs/calibration.svg"
_LANGUAGE_MODELS = ((21, 1.0), (22, 1.0), (23, 1 / 3), (24, 1 / 3))  # (seed, share of the study's steps)
_LANGUAGE_TOKENS = 64


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--env", "env_id", default="sat", show_default=True)
@click.option(
    "--seeds", default=4, show_default=True, type=click.IntRange(min=1), help="Models; every other one twice as large."
)
@click.option("--windows", default=3, show_default=True, type=click.IntRange(min=0), help="Windows of training of each model.")
@click.option("--groups", default=24, show_default=True, type=click.IntRange(min=1), help="Groups of 16 a training window.")
@click.option(
    "--prompts", default=30, show_default=True, type=click.IntRange(min=1), help="Calibration prompts of each of these."
)
@click.option(
    "--language-prompts", default=40, show_default=True, type=click.IntRange(min=1), help="Those of each language model."
)
@click.option("--learning-rate", default=OptimiserSettings.learning_rate, show_default=True)
@click.option("--version", required=True, help="The text that verdicts name the table by.")
@click.option("--work", type=click.Path(path_type=Path, file_okay=False), help="Keep checkpoints here, and use those there.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default=_SHIPPED, show_default=True)
@click.option("--plot", "plot_to", type=click.Path(path_type=Path, dir_okay=False), default=_PLOT, show_default=True)
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures of every condition here.")
def main(
    env_id: str,
    seeds: int,
    windows: int,
    groups: int,
    prompts: int,
    language_prompts: int,
    learning_rate: float,
    version: str,
    work: Path | None,
    out: Path,
    plot_to: Path,
    report: Path | None,
) -> None:
    """Train small models, measure honest drift at every checkpoint, and write the table."""
    import torch

    from grail_core.calibration.measure import calibrate
    from grail_core.calibration.plot import plot

    torch.set_num_threads(1)
    root = work or Path(tempfile.mkdtemp(prefix="grail-calibrate-"))
    folders: list[Path] = []
    for seed in range(seeds):
        folders += checkpoints(env_id, root / f"seed{seed}", seed, windows, groups, learning_rate, large=seed % 2 == 1)
    sources = [*network_sources(env_id, folders, prompts), *language_sources(language_prompts)]

    def told(label: str, done: int, total: int) -> None:
        click.echo(f"{done}/{total} {label}", err=True)

    found = calibrate(sources, version=version, told=told)
    out.write_bytes(found.table.to_bytes())
    plot_to.write_text(plot(found), encoding="utf-8")
    if report is not None:
        report.write_text("".join(json.dumps(one.to_json()) + "\n" for one in found.observations), encoding="utf-8")
    for pair in found.table.pairs.values():
        click.echo(f"{pair.miner} → {pair.validator}: {pair.tokens} tokens, {pair.checkpoints} checkpoints")


def network_sources(env_id: str, folders: list[Path], prompts: int) -> list[Source]:
    """Localnet's checkpoints with problems of the environment, rendered as miners render them."""
    from grail_core.calibration.measure import Source
    from grail_core.generation.defaults import sampling_defaults
    from grail_core.model.prompts import PromptRenderer
    from grail_envs import load

    environment = load(env_id)
    sources = []
    for index, folder in enumerate(folders):
        renderer, defaults = PromptRenderer(folder), sampling_defaults(folder)
        problems = [environment.problem(_word(f"calibrate|{index}|{i}")) for i in range(prompts)]
        asked = [renderer.render(environment.messages(problem)) for problem in problems]
        name = f"{env_id} {folder.parent.name} {folder.name}"
        sources.append(Source(name, folder, asked, defaults.policy, frozenset(defaults.end_tokens)))
    return sources


def language_sources(prompts: int) -> list[Source]:
    """Language models with the openings of documents that none of them was trained on, other ones for each."""
    from grail_core.calibration.measure import Source
    from grail_core.protocol.policy import GenerationPolicy
    from tooling.adversaries.deviations.workbench import PROMPT_TOKENS
    from tooling.testing.models.artefacts import Artefacts, default_folder
    from tooling.testing.models.corpus import load_corpus
    from tooling.testing.models.language_model import ASSISTANT, END, STUDY, USER, encoder, language_model

    store, corpus = Artefacts(default_folder()), load_corpus()
    sources = []
    for index, (seed, share) in enumerate(_LANGUAGE_MODELS):
        shape = dataclasses.replace(STUDY, layers=4, seed=seed, steps=round(share * STUDY.steps))
        folder = language_model(store, corpus, shape).folder
        tokens = encoder(folder)
        user, assistant, end = (tokens.token_to_id(control) for control in (USER, ASSISTANT, END))
        room = PROMPT_TOKENS - 2
        openings = [ids[:room] for d in corpus.held_out if len(ids := tokens.encode(d.prompt).ids) >= room]
        asked = [(user, *ids, assistant) for ids in openings[prompts * index : prompts * (index + 1)]]
        name = f"language seed {seed}, {shape.steps} steps"
        sources.append(Source(name, folder, asked, GenerationPolicy(_LANGUAGE_TOKENS), frozenset({end})))
    return sources


def checkpoints(
    env_id: str, root: Path, seed: int, windows: int, groups: int, learning_rate: float, *, large: bool
) -> list[Path]:
    """Folders of one model before training and after each window, made where they are not there yet."""
    from grail_core.generation.defaults import sampling_defaults
    from grail_core.model.policy_model import PolicyModel
    from grail_core.model.prompts import PromptRenderer
    from grail_envs import load
    from grail_trainer.learning.optimiser import Masters
    from grail_trainer.learning.update import update
    from grail_trainer.tiny.init import config_for, create_model
    from tooling.studies.learning_curves.curve import rollouts as training_batch

    folders = [root / f"window{window}" for window in range(windows + 1)]
    if all((folder / "config.json").is_file() for folder in folders):
        return folders
    shutil.rmtree(root, ignore_errors=True)
    environment = load(env_id)
    config = config_for(environment)
    if large:
        config = dataclasses.replace(
            config, hidden_size=2 * config.hidden_size, intermediate_size=2 * config.intermediate_size, layers=2 * config.layers
        )
    create_model(environment, folders[0], seed=seed, config=config)
    defaults, renderer = sampling_defaults(folders[0]), PromptRenderer(folders[0])
    settings = dataclasses.replace(GrpoSettings(), seed=seed)
    masters = Masters.load(folders[0], OptimiserSettings(learning_rate=learning_rate))
    serving, reference = PolicyModel.load(folders[0]), PolicyModel.load(folders[0]).module
    for window, folder in enumerate(folders[1:]):
        batch, solved = training_batch(
            serving,
            renderer,
            environment,
            defaults.policy,
            frozenset(defaults.end_tokens),
            groups,
            f"calibrate|{seed}|{window}",
        )
        update(
            masters,
            batch,
            settings,
            window=window,
            temperature=defaults.policy.temperature,
            token_limit=defaults.policy.max_tokens,
            reference=reference,
        )
        serving.load_state(masters.published())
        shutil.copytree(folders[0], folder)
        serving.module.save_pretrained(folder)
        click.echo(f"{folder}: rollouts solved {solved:.3f}")
    return folders


def _word(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


if __name__ == "__main__":
    run_cli(main)
