"""Make the calibration table that ships with `grail-core`, from localnet's own models.

Each model is what `grail-trainer init` makes, then trained for a few windows as localnet's trainer would; every checkpoint on
the way is one calibration condition. Prompts are the environment's, rendered as miners render them. Half an hour on one core.

    python -m tooling.calibrate --version bf16-cpu/1
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
from pathlib import Path

import click

from grail_core.cli_support import run_cli

_SHIPPED = Path(__file__).parent.parent / "packages/grail-core/src/grail_core/proof/calibration.json"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--env", "env_id", default="sat", show_default=True)
@click.option(
    "--seeds", default=4, show_default=True, type=click.IntRange(min=1), help="Models; every other one twice as large."
)
@click.option("--windows", default=3, show_default=True, type=click.IntRange(min=0), help="Windows of training of each model.")
@click.option("--groups", default=24, show_default=True, type=click.IntRange(min=1), help="Groups of 16 a training window.")
@click.option(
    "--prompts", default=60, show_default=True, type=click.IntRange(min=1), help="Calibration prompts per checkpoint."
)
@click.option("--learning-rate", default=1e-3, show_default=True)
@click.option("--version", required=True, help="The text that verdicts name the table by.")
@click.option("--work", type=click.Path(path_type=Path, file_okay=False), help="Keep checkpoints here, and use those there.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default=_SHIPPED, show_default=True)
def main(
    env_id: str,
    seeds: int,
    windows: int,
    groups: int,
    prompts: int,
    learning_rate: float,
    version: str,
    work: Path | None,
    out: Path,
) -> None:
    """Train small models, measure honest drift at every checkpoint, and write the table."""
    import torch

    from grail_core.calibrate import calibrate
    from grail_core.prompts import PromptRenderer
    from grail_core.proof.calibration import CalibrationTable
    from grail_envs import load
    from grail_trainer.model_folder import sampling_defaults

    torch.set_num_threads(1)
    root = work or Path(tempfile.mkdtemp(prefix="grail-calibrate-"))
    environment = load(env_id)
    folders: list[Path] = []
    for seed in range(seeds):
        folders += checkpoints(env_id, root / f"seed{seed}", seed, windows, groups, learning_rate, large=seed % 2 == 1)
    asked = []
    for index, folder in enumerate(folders):
        renderer = PromptRenderer(folder)
        problems = [environment.problem(_word(f"calibrate|{index}|{i}")) for i in range(prompts)]
        asked.append([renderer.render(environment.messages(problem)) for problem in problems])
    defaults = sampling_defaults(folders[0])
    pair = calibrate(folders, asked, defaults.policy, frozenset(defaults.end_tokens), report=True)
    table = CalibrationTable(version, {(pair.miner, pair.validator): pair})
    out.write_text(json.dumps(table.to_json(), indent=1) + "\n", encoding="utf-8")
    click.echo(f"{out}: {pair.tokens} tokens, {pair.rollouts} rollouts, {pair.checkpoints} checkpoints")


def checkpoints(
    env_id: str, root: Path, seed: int, windows: int, groups: int, learning_rate: float, *, large: bool
) -> list[Path]:
    """Folders of one model before training and after each window, made where they are not there yet."""
    from grail_core.prompts import PromptRenderer
    from grail_core.proof.model import PolicyModel
    from grail_envs import load
    from grail_trainer.grpo import GrpoSettings, update
    from grail_trainer.init import config_for, create_model
    from grail_trainer.model_folder import sampling_defaults
    from grail_trainer.optimiser import Masters
    from tooling.learn import _rollouts as training_batch

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
    settings = dataclasses.replace(GrpoSettings(), learning_rate=learning_rate, seed=seed)
    masters = Masters.load(
        folders[0], learning_rate=learning_rate, betas=settings.adam_betas, weight_decay=settings.weight_decay
    )
    serving = PolicyModel.load(folders[0])
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
