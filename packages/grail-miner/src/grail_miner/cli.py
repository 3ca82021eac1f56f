"""`grail-miner`: mine, see what keeps a machine from it, check a file before its upload, serve. Heavy imports wait."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

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
from grail_core.telemetry.json_output import json_option, say
from grail_miner import __version__
from grail_miner.limits import MOST_GROUPS_PER_BATCH, MiningLimits

if TYPE_CHECKING:
    from grail_core.errors import ConfigurationError
    from grail_core.participant.settings import Resolution, Settings


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="grail-miner")
@verbose_option
def cli() -> None:
    """Produce proven rollouts for a GRAIL network.

    Everything is set by environment variables, a .env file or a TOML file (see `grail-miner run --show-settings`). The least
    a miner needs: a registered hotkey (BT_WALLET_COLD, BT_WALLET_HOT), the network (BT_NETWORK, NETUID, GRAIL_NETWORK) and a
    bucket (R2_* or GRAIL_STORAGE_ROOT).
    """


@cli.command()
@click.option("--windows", type=click.IntRange(min=1), help="Stop after so many windows were mined (default: never).")
@click.option(
    "--trace",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write what each stage did and when there, window by window: JSON and a drawing.",
)
@knob_options(MiningLimits, "limits", "max_groups")
@click.option(
    "--batch",
    type=click.IntRange(1, MOST_GROUPS_PER_BATCH),
    help="Groups generated at a time (default: GRAIL_PIPELINE_GROUPS_PER_BATCH).",
)
@click.option(
    "--batch-sequences",
    type=click.IntRange(min=1),
    help="Gradient work: sequences of an inner step (default: as many as this machine was measured to train in time).",
)
@click.option("--no-live", is_flag=True, help="One line per event on a terminal too, in place of a picture that stays.")
@common_options
@beacon_option
def run(
    settings: Settings,
    windows: int | None,
    trace: Path | None,
    limits: MiningLimits,
    batch: int | None,
    batch_sequences: int | None,
    no_live: bool,
) -> None:
    """Mine window after window until stopped.

    Each window: wait for its seed, sync the checkpoint, generate the assigned problems with the assigned seeds, grade, prove,
    sign and upload before the deadline. Ctrl-C finishes cleanly; a restart continues with the running window. On a terminal a
    picture shows where it is; in a pipe, or with --no-live, there is one line per event.

    Where the network's checkpoint asks for gradient work, each round instead: train the assigned sequences for the spec's inner
    steps, seal, reveal once seals are seen, open what the challenge draws (docs/gradient.md).
    """
    from grail_core.commands.own_standing import own_standing
    from grail_miner.start import run_miner

    limits = replace(limits, groups_per_batch=batch or settings.pipeline_groups_per_batch)
    run_miner(
        settings,
        stop_on_signals,
        windows=windows,
        limits=limits,
        trace_dir=trace,
        live=not no_live,
        batch_sequences=batch_sequences,
        standing=lambda participant: own_standing(participant, settings),
    )


@cli.command()
@click.option(
    "--model",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="A model's folder to hold against the memory (default: the checkpoint's, where it is cached).",
)
@click.option("--env", "environment", help="Environment whose minima count (default: the checkpoint's).")
@click.option("--offline", is_flag=True, help="Ask nothing outside this machine.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object; with --watch one a line for each change.")
@watch_options
@examined_options
def doctor(
    found: Resolution,
    faults: tuple[ConfigurationError, ...],
    model: Path | None,
    environment: str | None,
    offline: bool,
    as_json: bool,
    watch: bool,
    every: int,
) -> None:
    """Name everything that would keep a miner from being paid, all at once: from settings to data sets.

    Settings with their origin and what is odd about them, network, wallet, bucket, chain, beacon and the trainer's checkpoints
    as every role's doctor asks them; then which back-end generates and why, what runs on which device, the model against the
    memory and the machine against the minima, sandbox, disk, data sets. Nothing is started, and nothing but some small objects
    in the own bucket is written, which go again. What was not asked is said.
    Ends with the exit code of the first thing that is broken, or 0.

    With --watch it goes on: what needs others (chain, beacon, bucket, checkpoints, disk, and what validators have published of
    this hotkey) is asked every --every seconds, and what begins or ends to be wrong is said with what to do. It ends with 0.

    \b
      grail-miner doctor --offline
      grail-miner doctor --model ./Qwen3-4B --env gsm8k --json
      grail-miner doctor --watch --every 120
    """
    if watch:
        from grail_core.commands.doctor_watch import watch_command
        from grail_core.examination.known import MINER

        watch_command(found, faults, MINER, every=every, offline=offline, as_json=as_json)
        return
    from grail_core.examination.report import end
    from grail_miner.doctor.examination import Asked, examine
    from grail_miner.doctor.report import as_json as json_of
    from grail_miner.doctor.report import as_text

    done = examine(found, Asked(model, environment, offline), faults)
    click.echo(json_of(done) if as_json else as_text(done))
    end(done.findings, "miner")


@cli.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option(
    "--seal", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="Its seal, read as first sight reads it."
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="The checkpoint's folder (default: the one in GRAIL_CACHE_DIR that the file names).",
)
@click.option("--rollouts", type=click.IntRange(min=0), help="Measure so many, in whole groups; 0: none (default: a sample).")
@click.option("--all", "every", is_flag=True, help="Measure every rollout at every position.")
@click.option("--online", is_flag=True, help="Ask the chain for the window, and fetch what the cache lacks.")
@click.option("--json", "as_json", is_flag=True, help="Findings and causes as JSON.")
@common_options
def check(
    settings: Settings,
    file: Path,
    seal: Path | None,
    checkpoint: Path | None,
    rollouts: int | None,
    every: bool,
    online: bool,
    as_json: bool,
) -> None:
    """Say what a validator would say of a window FILE, before it is uploaded: the same checks, the same words.

    Checks 1 to 5 over all rows, then rewards and proofs of a sample that is drawn by chance, as a challenge will draw another.
    Needs the network's parameters (GRAIL_NETWORK), the environment and the window's checkpoint, and no wallet or bucket. A
    miner keeps most checkpoints in memory alone: --online asks the chain and fetches one that the cache lacks.
    Exit code 0: accepted; 11: a check rejects; 6: the checkpoint is not here.

    \b
      grail-miner check window.parquet --seal seal.json
      grail-miner check window.parquet --all --json
    """
    from grail_miner.check import CheckRequest, check_command

    if every and rollouts is not None:
        raise click.UsageError("give either --rollouts N or --all")
    check_command(settings, CheckRequest(file, seal, checkpoint, rollouts, every, online), as_json=as_json)


@cli.command()
@click.option(
    "--backend", "url", metavar="URL", help="Where the engine answers, http://127.0.0.1:PORT (hf runs in this process)."
)
@click.option(
    "--engine", type=click.Choice(["sglang", "vllm", "hf"]), default="sglang", show_default=True, help="Which engine it is."
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="A checkpoint's or a model's folder, which the engine can read too (default: the newest in GRAIL_CACHE_DIR).",
)
@click.option("--groups", type=click.IntRange(min=1), default=64, show_default=True, help="Prompts, each with two rollouts.")
@click.option("--tokens", type=click.IntRange(min=1), default=64, show_default=True, help="Of a completion, at most.")
@click.option("--temperature", type=click.FloatRange(min=0, min_open=True), help="In place of the checkpoint's policy's.")
@click.option("--top-k", type=click.IntRange(min=-1), help="In place of the policy's; -1: all.")
@click.option("--top-p", type=click.FloatRange(min=0, min_open=True, max=1), help="In place of the policy's; 1: all.")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
@common_options
def conformance(
    settings: Settings,
    url: str | None,
    engine: Literal["sglang", "vllm", "hf"],
    checkpoint: Path | None,
    groups: int,
    tokens: int,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    as_json: bool,
) -> None:
    """Say whether an engine draws the tokens that a verifier draws, and if not, why.

    Makes the engine serve the checkpoint, sends seeded prompts with two rollouts each, and holds every token that comes back
    against this machine's own draw over the same tokens: agreement, the distribution of margins, where it breaks and what is
    likely to be wrong. Run it before the first window, and after every change of engine, driver or GPU. Do not run it on an
    engine that a miner is using: it loads weights into it.
    Exit code 0: it conforms; 11: it does not; 16: the engine failed.

    \b
      grail-miner conformance --engine vllm --backend http://127.0.0.1:8000
      grail-miner conformance --engine hf --checkpoint ./model --temperature 0.7 --json
    """
    from grail_miner.conformance.command import ConformanceRequest, conformance_command

    asked = ConformanceRequest(engine, url, checkpoint, groups, tokens, temperature, top_k, top_p)
    conformance_command(settings, asked, as_json=as_json)


@cli.command()
@click.option("--seconds", type=click.FloatRange(min=1), default=300, show_default=True, help="For all of it.")
@click.option(
    "--model",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="A model's folder (default: the network's newest checkpoint in the cache; where there is none, a synthetic one).",
)
@click.option("--env", "environment", help="Environment whose problems are solved (default: the checkpoint's).")
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    default=512,
    show_default=True,
    help="Most of a completion, where no checkpoint says it.",
)
@click.option(
    "--most",
    type=click.IntRange(1, MOST_GROUPS_PER_BATCH),
    default=MOST_GROUPS_PER_BATCH,
    show_default=True,
    help="Largest batch tried.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@common_options
def bench(
    settings: Settings, seconds: float, model: Path | None, environment: str | None, max_tokens: int, most: int, as_json: bool
) -> None:
    """Find the best number of groups per batch for this machine, with the engine and the proof workers that are set.

    Makes groups as a window's are made, 1, 2, 4, … at a time, three runs of each, until larger batches bring no more or time
    is up; says what each stage can do, which one the others wait for, and what to set. Needs no wallet, chain or bucket, and
    stores nothing. Ctrl-C ends it with what was found by then. Nothing else should run on the machine meanwhile.

    \b
      grail-miner bench --model ./Qwen3-4B --env gsm8k --max-tokens 1024
      grail-miner bench --seconds 60 --json
    """
    from grail_miner.bench.command import BenchRequest, bench_command

    asked = BenchRequest(seconds, model, environment, max_tokens, most)
    bench_command(settings, stop_on_signals, asked, as_json=as_json)


@cli.command()
@click.option(
    "--model",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="The model's folder, in Transformers' layout.",
)
@click.option("--live", is_flag=True, help="In place of --model: the network's checkpoints, as they become valid.")
@click.option("--name", default="", help="What clients call the model (default: the folder's name, or the network's).")
@click.option("--listen", default="", metavar="ADDRESS:PORT", help="Where to answer (default: GRAIL_SERVE_LISTEN).")
@click.option(
    "--tokens",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The clients that may ask from elsewhere, as TOML (default: GRAIL_SERVE_TOKENS; none).",
)
@click.option("--network", help="With --model: the built-in network whose parameters hold (default: subnet-81).")
@click.option("--wallet", is_flag=True, help="Sign with the hotkey of BT_WALLET_* (default: one made at the first start).")
@click.option(
    "--thinking",
    type=click.Choice(["native", "instructed", "none"]),
    help="With --model: how the chat template is asked to think; part of the model's digest (default: none).",
)
@click.option(
    "--engine",
    type=click.Choice(["hf", "sglang", "vllm"]),
    default="hf",
    show_default=True,
    help="What draws the tokens: Transformers, or an engine as the settings of `run` say (GRAIL_PIPELINE_*, GRAIL_*_PYTHON).",
)
@click.option(
    "--backend", "url", metavar="URL", help="With --engine: the server that somebody else runs (default: GRAIL_*_URL)."
)
@common_options
def serve(
    settings: Settings,
    folder: Path | None,
    live: bool,
    name: str,
    listen: str,
    tokens: Path | None,
    network: str | None,
    wallet: bool,
    thinking: str | None,
    engine: str,
    url: str | None,
) -> None:
    """Answer requests with a model, each with a receipt that anybody can check.

    Speaks OpenAI's API for completions and chat. Every answer is drawn from a seed that follows from the request, and signed;
    its member `grail` says where the receipt is. The same request again gives another text, with `seed` the same. What could
    not be proved (presence_penalty, tools, logit_bias, …) is refused by name.

    Needs no wallet or registration: a hotkey is made at the first start, in GRAIL_STATE_DIR. With --model it needs no chain and
    no bucket either. With --live it follows a network (BT_NETWORK, NETUID, GRAIL_NETWORK, and R2_* or GRAIL_STORAGE_ROOT to
    read its bucket): signed orders may then name whatever it serves, and each receipt says which checkpoint answered.

    Answers programs of this machine alone (127.0.0.1), unless --tokens names the clients that may ask from elsewhere: each has
    a token (made by `grail-miner token`), limits, and GET /v1/usage; /metrics is for the operator. TLS is a proxy's. The model
    runs on GRAIL_DEVICE, in a process of its own. Receipts are kept for 7 days. Ctrl-C lets the running requests end.

    With --engine sglang or vllm that engine draws, and the process proves: each needs memory for the weights. Engines draw
    without a repetition penalty; requests with one are refused. Whether yours draws as it must says `grail-miner conformance`.

    \b
      grail-miner serve --model ./Qwen2.5-0.5B-Instruct
      grail-miner serve --model ./Qwen2.5-0.5B-Instruct --tokens clients.toml --listen 0.0.0.0:4000
      grail-miner serve --model ./Qwen2.5-0.5B-Instruct --engine vllm --backend http://127.0.0.1:8000
    \b
      curl http://127.0.0.1:4000/v1/chat/completions -H 'Content-Type: application/json' \\
        -d '{"model": "Qwen2.5-0.5B-Instruct", "messages": [{"role": "user", "content": "2 + 2?"}]}'
      curl 'http://127.0.0.1:4000/v1/receipts/DIGEST?token=TOKEN' > receipt.json
      grail verify receipt.json --model ./Qwen2.5-0.5B-Instruct
    \b
      from openai import OpenAI
      client = OpenAI(base_url="http://127.0.0.1:4000/v1", api_key="none")
      answer = client.completions.create(model="Qwen2.5-0.5B-Instruct", prompt="Once", seed=7)
      print(answer.choices[0].text, answer.grail["receipt_token"])
    \b
      grail ask "What is 2 + 2?" --model ./Qwen2.5-0.5B-Instruct
    """
    from grail_miner.serving.service import ServeRequest
    from grail_miner.serving.service import serve as run_node

    if live == (folder is not None):
        raise click.UsageError("give either --model FOLDER or --live")
    if live and (network or thinking):
        raise click.UsageError("with --live GRAIL_NETWORK names the network, and its checkpoints say how they think")
    if url and engine == "hf":
        raise click.UsageError("--backend is the address of an engine: name it with --engine sglang or --engine vllm")
    asked = ServeRequest(folder, name, listen, network or "subnet-81", wallet, thinking or "none", tokens, engine, url or "")
    run_node(settings, stop_on_signals, asked)


@cli.command()
@click.argument("name")
@click.option(
    "--file",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The clients' file, made if it is not there (default: GRAIL_SERVE_TOKENS).",
)
@json_option
@common_options
def token(settings: Settings, name: str, file: Path | None, as_json: bool) -> None:
    """Make a token for client NAME, print it this once, and append the client to the file of clients.

    The file holds the token's hash and not the token: who lost one gets another, under a new name or in place of the old entry.
    Limits (requests_per_minute, tokens_per_minute, concurrent), networks and metrics are written behind the hash by hand. A
    node that serves reads the file again by itself; removing an entry takes its token back within a second.

    \b
      grail-miner token alice --file clients.toml
      grail-miner serve --model ./Qwen2.5-0.5B-Instruct --tokens clients.toml --listen 0.0.0.0:4000
    """
    from grail_miner.serving.new_token import add_client

    path = file or settings.serve_tokens
    if path is None:
        raise click.UsageError("give --file FILE, or set GRAIL_SERVE_TOKENS")
    made = add_client(path, name)
    say(made, {"client": name, "file": str(path), "token": made}, as_json=as_json)
    click.echo(f"client {name} is in {path}; the token is not kept anywhere", err=True)


def main() -> None:
    run_cli(cli)
