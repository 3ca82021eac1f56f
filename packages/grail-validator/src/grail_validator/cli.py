"""`grail-validator`: judge windows, and say why. Heavy imports wait until a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from grail_core.commands.doctor_watch import watch_options
from grail_core.commands.knob_options import knob_options
from grail_core.commands.options import (
    beacon_option,
    common_options,
    examined_options,
    run_cli,
    stop_on_signals,
    verbose_option,
)
from grail_core.protocol.reading import MAX_JSON_INTEGER
from grail_core.telemetry.json_output import json_option
from grail_validator import __version__
from grail_validator.compared_models import ComparedModels
from grail_validator.simulation.command import simulate

if TYPE_CHECKING:
    from grail_core.errors import ConfigurationError
    from grail_core.participant.settings import Resolution, Settings


WINDOW = click.IntRange(min=0, max=MAX_JSON_INTEGER)
"""A window by its first block: no verdict holds a larger number, and a ledger cannot be asked for one."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="grail-validator")
@verbose_option
def cli() -> None:
    """Check proofs and rewards of a GRAIL network, score miners, set weights.

    Everything is set by environment variables, a .env file or a TOML file (see `grail-validator run --show-settings`). The
    least a validator needs: a registered hotkey with a permit, the network, and a bucket to publish its verdicts in.
    """


@cli.command()
@click.option("--windows", type=click.IntRange(min=1), help="Stop after so many windows were scored (default: never).")
@knob_options(ComparedModels, "compared")
@common_options
@beacon_option
def run(settings: Settings, windows: int | None, compared: ComparedModels) -> None:
    """Judge window after window until stopped.

    Each window: record every hotkey's seal at the deadline, wait for the challenge, select, check, publish the
    signed verdict with its evidence, and set weights when they are due. Ctrl-C finishes cleanly; a restart continues with
    the step it was in.
    """
    from grail_validator.start import run_validator

    run_validator(settings, stop_on_signals, windows=windows, compared=compared)


@cli.command()
@click.argument("window", type=WINDOW)
@click.option("--hotkey", help="Only this miner (SS58 or hex).")
@click.option(
    "--ledger",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A validator's ledger.sqlite (default: the one in GRAIL_STATE_DIR that has this window).",
)
@click.option("--from", "bucket", metavar="BUCKET", help="A validator's bucket: its published verdict, in place of a ledger's.")
@click.option("--row", metavar="GROUP:R", help="One sampled rollout's evidence, of the miner that --hotkey names.")
@click.option("--json", "as_json", is_flag=True, help="The verdict's body as JSON, with margins and causes.")
@common_options
def explain(
    settings: Settings,
    window: int,
    hotkey: str | None,
    ledger: Path | None,
    bucket: str | None,
    row: str | None,
    as_json: bool,
) -> None:
    """Say why each miner of WINDOW got its verdict: every check with its numbers, the likely cause, and what to do.

    WINDOW is a window, or the first block of a round of gradient work. Reads the validator's ledger on this machine, or the
    bucket that --from names, and nothing else: no chain, no wallet. Of what was accepted each check has one line; -v shows all
    that it measured. --row also opens the published evidence in this
    validator's bucket.

    \b
      grail-validator explain 4242000 --hotkey 5F...
      grail-validator explain 4242000 --hotkey 5F... --row 12:3
      grail-validator explain 4242000 --from s3:VALIDATORS-BUCKET
    """
    from grail_core.commands.options import verbosity
    from grail_validator.explain import explain_window

    explain_window(
        settings, window, ledger=ledger, hotkey=hotkey, as_json=as_json, row=row, bucket=bucket, whole=verbosity() > 0
    )


@cli.command()
@click.option("--table", is_flag=True, help="Only by which calibration table work is judged; needs no wallet.")
@click.option("--offline", is_flag=True, help="Ask nothing outside this machine.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object; with --watch one a line for each change.")
@watch_options
@examined_options
def doctor(
    found: Resolution,
    faults: tuple[ConfigurationError, ...],
    table: bool,
    offline: bool,
    as_json: bool,
    watch: bool,
    every: int,
) -> None:
    """Name everything that would keep a validator from its work, all at once, and say by which table work is judged now.

    Settings with their origin and what is odd about them, network, wallet, bucket, chain with registration and permit, beacon,
    the trainer's checkpoints, devices, sandbox, disk, data sets. Then the table that the checkpoint in force pins (version,
    digest), and for every class that may prove or draw whether its statistics are enforced at this model's shape, with doubled
    dead zone, or only reported, and thresholds for 64 rollouts. Nothing is started.
    Ends with the exit code of the first thing that is broken; 11 where the network refuses what no table covers, and a class
    is not covered.

    With --watch it goes on: what needs others (chain, permit, weights, beacon, bucket, checkpoints, disk) is asked every
    --every seconds, and what begins or ends to be wrong is said with what to do. It ends with 0.

    \b
      grail-validator doctor
      grail-validator doctor --table --json
      grail-validator doctor --watch
    """
    if watch:
        if table:
            raise click.UsageError("--table is asked once: leave --watch")
        from grail_core.commands.doctor_watch import watch_command
        from grail_core.examination.known import VALIDATOR

        watch_command(found, faults, VALIDATOR, every=every, offline=offline, as_json=as_json)
        return
    from grail_validator.doctor import doctor_command, table_command

    if table:
        if faults:
            raise faults[0]
        table_command(found.settings, as_json=as_json)
    else:
        doctor_command(found, faults, offline=offline, as_json=as_json)


@cli.command()
@click.argument("windows", type=WINDOW, nargs=-1, metavar="WINDOW...")
@click.option("--all", "every", is_flag=True, help="Every window that has a verdict there.")
@click.option(
    "--from",
    "bucket",
    metavar="BUCKET",
    help="A validator's bucket: its commitment on the chain (s3:..., fs:NAME), or a folder. Default: this machine's ledger.",
)
@click.option(
    "--beside",
    multiple=True,
    metavar="BUCKET",
    help="Another bucket to look in: the trainer's, a miner's, a validator's. Folders beside BUCKET always are.",
)
@click.option("--validator", help="The verdicts must be this validator's (SS58). Default: whoever signed the first one.")
@click.option(
    "--ledger",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Without --from: a validator's ledger.sqlite (default: the one in GRAIL_STATE_DIR).",
)
@click.option("--json", "as_json", is_flag=True, help="Outcomes as JSON.")
@common_options
def replay(
    settings: Settings,
    windows: tuple[int, ...],
    every: bool,
    bucket: str | None,
    beside: tuple[str, ...],
    validator: str | None,
    ledger: Path | None,
    as_json: bool,
) -> None:
    """Judge published windows again, from published files alone, and compare to the byte.

    Needs the network's parameters (GRAIL_NETWORK) and the environment, and no wallet, chain or model: what a model measured
    is in the validator's evidence. Says of each window that it is equal, or what differs first, and names what was taken as
    the verdict says it. Exit code 11 where one is different, 5 where one could not be judged again, else 0.

    \b
      grail-validator replay 4242000 --from s3:0:bucket:... --beside s3:0:trainers-bucket:...
      grail-validator replay --all --from localnet-out/store/validator-1
    """
    from grail_validator.replay_command import ReplayRequest, replay_command

    if bool(windows) == every:
        raise click.UsageError("give either WINDOW... or --all")
    if bucket is not None and ledger is not None:
        raise click.UsageError("give either --from BUCKET or --ledger FILE")
    asked = ReplayRequest(windows, every, bucket, beside, validator, ledger)
    replay_command(settings, asked, as_json=as_json)


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65_535), default=9464, show_default=True, help="0: any free one.")
@click.option(
    "--from",
    "bucket",
    metavar="VERDICTS",
    help="Somebody's published verdicts: a commitment on the chain (s3:..., fs:NAME), or a folder. Default: a ledger.",
)
@click.option(
    "--ledger",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A validator's ledger.sqlite, or a copy of one (default: the only one in GRAIL_STATE_DIR).",
)
@click.option("--validator", help="With --from: the verdicts must be this validator's (SS58). Default: the newest one's.")
@json_option
@common_options
def serve(
    settings: Settings,
    host: str,
    port: int,
    bucket: str | None,
    ledger: Path | None,
    validator: str | None,
    as_json: bool,
) -> None:
    """Show what was judged as web pages, read-only, until stopped: scoreboard, windows, every reason, proof statistics,
    checkpoints, forecasts, downloads, /metrics and /healthz.

    Needs no wallet, chain or model, and no browser with JavaScript. Reads a ledger beside the validator that writes it, a copy
    that `backup` made, or what anybody has published. With --json one line says the address once it listens.

    \b
      grail-validator serve
      grail-validator serve --from localnet-out/store/validator-1 --port 0 --json
      grail-validator serve --ledger /backups/ledger-2026-11-30.sqlite
    """
    from grail_validator.page.command import ServeRequest, serve_command

    if bucket is not None and ledger is not None:
        raise click.UsageError("give either --from VERDICTS or --ledger FILE")
    if validator is not None and bucket is None:
        raise click.UsageError("--validator says whose verdicts --from shows; a ledger says it itself")
    asked = ServeRequest(host, port, bucket, ledger, validator)
    with stop_on_signals() as stop:
        serve_command(settings, asked, stop, as_json=as_json)


@cli.command()
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--ledger",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A validator's ledger.sqlite (default: the only one in GRAIL_STATE_DIR).",
)
@json_option
@common_options
def backup(settings: Settings, target: Path, ledger: Path | None, as_json: bool) -> None:
    """Copy this validator's ledger to TARGET, also while it runs.

    The copy is one file, whole at one moment, and looked through before this ends with 0. It holds no key.

    \b
      grail-validator backup /backups/ledger-$(date +%F).sqlite
    """
    from grail_validator.ledger_copies import backup_ledger

    backup_ledger(settings, target, ledger=ledger, as_json=as_json)


@cli.command()
@click.argument("source", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--replace", is_flag=True, help="Also where there is a ledger; that one stays beside it.")
@json_option
@common_options
def restore(settings: Settings, source: Path, replace: bool, as_json: bool) -> None:
    """Bring a copy of a ledger back, in the place of its network and hotkey in GRAIL_STATE_DIR.

    The validator must not run. Windows since the copy are as if it had been away: what it has published of them stays, their
    scores are adopted from another validator.
    """
    from grail_validator.ledger_copies import restore_ledger

    restore_ledger(settings, source, replace=replace, as_json=as_json)


@cli.command()
@click.option(
    "--work",
    type=click.Choice(["rollouts", "gradient"]),
    default="rollouts",
    show_default=True,
    help="gradient: replays of one checkpoint of gradient work, --count of them; only reports.",
)
@click.option(
    "--model",
    "models",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="A checkpoint as a Transformers folder. Repeat it: a table is enforced from 10 different ones on.",
)
@click.option("--prompts", type=click.Path(path_type=Path), help="JSON lines of token ids, dealt out over the checkpoints.")
@click.option("--env", "env_id", help="Or problems of this environment, rendered with each model's chat template.")
@click.option("--count", default=40, show_default=True, type=click.IntRange(min=1), help="Problems per checkpoint with --env.")
@click.option(
    "--attention",
    "attentions",
    type=click.Choice(["sdpa", "eager"]),
    multiple=True,
    default=("sdpa", "eager"),
    show_default=True,
    help="Kinds of attention whose pairs are fitted: two have four.",
)
@click.option("--max-tokens", type=click.IntRange(min=1), help="Longest completion (default: generation_config.json).")
@click.option(
    "--temperature", type=click.FloatRange(min=0, min_open=True), help="Of sampling (default: generation_config.json)."
)
@click.option(
    "--end-token",
    "end_tokens",
    type=click.IntRange(min=0),
    multiple=True,
    help="Id that ends a completion (default: the model's).",
)
@click.option("--version", help="The text that verdicts name the table by, for example bf16-h100/1.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="The table, its plot beside it; or the figures.")
@click.option("--json", "as_json", is_flag=True, help="Figures of every pair and condition as JSON.")
@common_options
def calibrate(
    settings: Settings,
    work: str,
    models: tuple[Path, ...],
    prompts: Path | None,
    env_id: str | None,
    count: int,
    attentions: tuple[str, ...],
    max_tokens: int | None,
    temperature: float | None,
    end_tokens: tuple[int, ...],
    version: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure how far honest miners drift on this machine, and make the table that proofs are judged by.

    Every prompt is completed 16 times and proved as a miner does it, then measured as a validator does it, in every way two
    honest machines may differ: attention, batches, order, kernels. The worst way decides. Checkpoints should be the network's
    own, from several moments of its training, and prompts like its problems: a statistic is enforced only for models no larger
    than those measured here, from 100,000 tokens and 10 checkpoints on, and only reported otherwise.

    \b
      grail-validator calibrate --env gsm8k --count 40 --version mine/1 --out table.json \\
          --model step-000 --model step-100 --model step-200 …
      grail-validator calibrate --work gradient --count 1000 --model CHECKPOINT

    GRAIL_DEVICE chooses the machine's device. What comes out is a proposal: it is held against the table that is pinned (of the
    first model folder that is a checkpoint's, else GRAIL_CALIBRATION, else the shipped one), with every threshold and reach
    that would change, and against what the network of GRAIL_NETWORK admits. The trainer pins it with `--calibration FILE`, and
    all validators judge by it from that checkpoint on.
    """
    from grail_validator.calibrate import CalibrationRequest, calibrate_command

    if work == "gradient":
        from grail_validator.gradient.calibrating import calibrate_replays

        calibrate_replays(settings, models, count, out, as_json=as_json)
        return
    if version is None or out is None:
        raise click.UsageError("a table needs --version and --out")
    if (prompts is None) == (env_id is None):
        raise click.UsageError("give either --prompts FILE or --env ID")
    asked = CalibrationRequest(
        models=models,
        prompts=prompts,
        env_id=env_id,
        count=count,
        attentions=attentions,  # type: ignore[arg-type]
        max_tokens=max_tokens,
        temperature=temperature,
        end_tokens=end_tokens,
        version=version,
        out=out,
    )
    calibrate_command(settings, asked, as_json=as_json)


cli.add_command(simulate)


def main() -> None:
    run_cli(cli)
