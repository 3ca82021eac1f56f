"""`grail receipts`: what honest receipts of a model look like, measured by whoever has the model."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from grail_core.commands.options import stop_on_signals, verbose_option
from grail_core.errors import CheckpointError, ConfigurationError

if TYPE_CHECKING:
    from grail_core.calibration.model_receipts import HonestNode
    from grail_core.checkpoints.served_model import ServedFolder
    from grail_core.proof.reader_table import ModelTable

_CHOICES = 4
_LONGEST = 440


@click.group()
@verbose_option
def receipts() -> None:
    """Receipts of inference: measure what honest ones of a model of yours look like. `grail verify` checks them."""


@receipts.command()
@click.option(
    "--model",
    "folder",
    required=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The model's folder, as a node serves it.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The table: a new file.")
@click.option("--force", is_flag=True, help="Let --out take the place of a file that is there.")
@click.option(
    "--prompts",
    type=click.Path(path_type=Path, dir_okay=False),
    help='Questions, one JSON object a line: {"prompt": …} or {"messages": [{"role", "content"}]} (default: 32 of many kinds).',
)
@click.option(
    "--answers",
    type=click.IntRange(min=1),
    default=160,
    show_default=True,
    help=f"How many to draw, of {_CHOICES} choices each. The more, the rarer an honest receipt that the table calls unproven.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(1, _LONGEST),
    default=_LONGEST,
    show_default=True,
    help="Of a completion. Beyond the longest class measured, the bounds of that class hold on.",
)
@click.option("--device", default="cpu", show_default=True, help="Where a node of yours draws and proves: cpu, cuda.")
@click.option(
    "--verifier",
    "verifiers",
    multiple=True,
    metavar="DEVICE",
    help="Where receipts will be verified, each with a --verifier of its own (default: the same device).",
)
@click.option("--table-version", "version", help="A name that reports say (default: the folder's and the weights').")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@verbose_option
def calibrate(
    folder: Path,
    out: Path,
    force: bool,
    prompts: Path | None,
    answers: int,
    max_tokens: int,
    device: str,
    verifiers: tuple[str, ...],
    version: str | None,
    as_json: bool,
) -> None:
    """Measure honest receipts of exactly this model and write a table of bounds for `grail verify --table`.

    The release's own table holds for small models on CPUs; for any other model or device a receipt is held against coarse
    bounds alone. Here the model answers questions of many lengths under five policies, proves them as a node does (both kinds
    of attention, choices together and one by one) and measures them as a verifier does. The table has the largest value that
    any honest choice had; twice that is the bound. It is made for whoever trusts this machine, and binds nobody else.

    Ctrl-C ends it after the answers that are being drawn (eight at a time) and writes what was measured, if that is enough.
    Needs grail-core[model] and memory for the model on each device; on a CPU a large model takes hours.

    \b
    Exit code 0: written. 3: a wrong setting, or too few choices for a table. 6: the folder is no model that can be served.

    \b
      grail receipts calibrate --model ./Qwen2.5-0.5B-Instruct --out qwen.json
      grail receipts calibrate --model ./model --out table.json --device cuda --verifier cuda --verifier cpu
      grail verify receipt.json --model ./Qwen2.5-0.5B-Instruct --table qwen.json --require calibrated
    """
    from grail_core.commands.new_file import require_new
    from grail_core.disk import write_atomically

    require_new(out, force=force, option="--out")
    asked = Asked(folder, prompts, answers, max_tokens, device, tuple(dict.fromkeys(verifiers)) or (device,), version)
    with stop_on_signals() as stop:
        table = measured_table(asked, stop)
    raw = table.to_bytes()
    write_atomically(out, raw)
    click.echo(json.dumps(_report(table, raw), indent=1) if as_json else _as_text(table, raw, out))


@dataclass(frozen=True)
class Asked:
    """The command's options."""

    folder: Path
    prompts: Path | None
    answers: int
    max_tokens: int
    device: str
    verifiers: tuple[str, ...]
    version: str | None


def measured_table(asked: Asked, stop: threading.Event) -> ModelTable:
    """What was measured when all is done, or when `stop` is set.

    Raises:
        ConfigurationError: a device that is none, prompts that are none, too few choices, values that no honest answer has.
        CheckpointError: the folder is no model that can be served, or its hidden states are not finite.
    """
    _require_sane(asked)
    from grail_core.calibration.measure import place_of
    from grail_core.calibration.model_receipts import fitting, measure_model
    from grail_core.calibration.receipt_prompts import prompts_of
    from grail_core.checkpoints.served_model import read_served_folder
    from grail_core.proof.errors import UnprovableError
    from grail_core.proof.reader_table import LEAST_CHOICES, LEAST_OF_CLASS, ModelTable, ReaderTable
    from grail_core.telemetry.progress import progress
    from grail_core.text import printable

    served = read_served_folder(asked.folder)
    prompts = prompts_of(asked.prompts, served.renderer)
    node = _node(asked, served)
    questions = fitting(prompts, node.model)
    if not questions:
        raise ConfigurationError("no question leaves room for an answer", where=f"--prompts {asked.prompts or '(built in)'}")
    try:
        with progress() as told:
            extremes, counts = measure_model(
                node,
                questions,
                asked.answers,
                told=lambda done: told("answers measured", done, asked.answers),
                stopped=stop.is_set,
            )
    except UnprovableError as error:
        raise CheckpointError(error.what, where=str(asked.folder), hint="its weights overflow in bf16") from error
    if counts.choices < LEAST_CHOICES:
        raise _too_few(counts.choices)
    version = asked.version or f"{printable(asked.folder.resolve().name, 40)} {served.model.weights_root.hex()[:16]}"
    place = "; verified on ".join(dict.fromkeys(place_of(device) for device in (asked.device, *asked.verifiers)))
    table = ModelTable(_model(served, node), counts, extremes.table(version, place[:1000], least=LEAST_OF_CLASS))
    try:
        ReaderTable.from_bytes(table.to_bytes(), name=str(asked.folder))
    except ConfigurationError as error:
        what = f"what was measured is not what honest answers have, and no table is written: {error.what}"
        hint = "these weights differ more between kernels than any that was looked at: coarse bounds alone hold for them"
        raise ConfigurationError(what, where=error.where, hint=hint) from error
    return table


def _require_sane(asked: Asked) -> None:
    """What would only be found after hours."""
    from grail_core.commands.receipt_models import require_what_runs_models
    from grail_core.proof.calibration import MOST_VERSION, is_version
    from grail_core.proof.reader_table import LEAST_CHOICES

    require_what_runs_models(asked.folder)
    if asked.answers * _CHOICES < LEAST_CHOICES:
        raise _too_few(asked.answers * _CHOICES)
    if asked.version is not None and not is_version(asked.version):
        what = f"a table's version is a printable text of 1 to {MOST_VERSION} characters"
        raise ConfigurationError(what, where="--table-version", hint="for example qwen2.5-7b h100/1")


def _too_few(choices: int) -> ConfigurationError:
    from grail_core.proof.reader_table import LEAST_CHOICES

    what = f"{choices} different choices are too few for a table, which takes {LEAST_CHOICES} at least: nothing is written"
    hint = "more --answers, more --prompts, or let it run to its end; a choice that comes again counts once"
    return ConfigurationError(what, where="--answers", hint=hint)


def _node(asked: Asked, served: ServedFolder) -> HonestNode:
    from grail_core.calibration.model_receipts import HonestNode
    from grail_core.model.policy_model import PolicyModel
    from grail_core.proof.numerics import numerics_class_of

    models = {device: PolicyModel.load(asked.folder, device=device) for device in (asked.device, *asked.verifiers)}
    for device, model in models.items():
        try:
            numerics_class_of(model)
        except ValueError as error:
            raise ConfigurationError(f"no receipts are made there: {error}", where=device, hint="cpu or cuda") from error
    verifiers = [models[device] for device in asked.verifiers]
    return HonestNode(models[asked.device], verifiers, frozenset(served.model.end_token_ids), asked.max_tokens)


def _model(served: ServedFolder, node: HonestNode) -> Any:
    from grail_core.proof.calibration import Shape
    from grail_core.proof.reader_table import MeasuredModel

    model = served.model
    shape = Shape(node.model.layers, node.model.hidden_size)
    return MeasuredModel(model.architecture, model.config_digest, model.weights_root, shape)


def _report(table: ModelTable, raw: bytes) -> dict[str, Any]:
    import hashlib

    return {
        "version": table.table.version,
        "place": table.table.place,
        "sha256": hashlib.sha256(raw).hexdigest(),
        "false_unproven_below": table.measured.rate,
        **{name: value for name, value in json.loads(raw).items() if name in ("model", "measured", "pairs")},
    }


def _as_text(table: ModelTable, raw: bytes, out: Path) -> str:
    import hashlib

    from grail_core.text import printable

    counts, model = table.measured, table.model
    lines = [
        printable(f"table {table.table.version}, of {model.architecture}, {model.shape.layers} x {model.shape.hidden_size}"),
        printable(f"measured on {table.table.place}"),
    ]
    for pair in table.table.pairs:
        lines.append(f"{pair.miner}, verified as {pair.validator}")
        for one in pair.lengths:
            bounds = one.bounds
            lines.append(
                f"  to {one.tokens:3d} tokens  {one.choices:6,} choices  bounds: error {bounds.error:.4f}, margin "
                f"{bounds.margin:.3f}, sum {bounds.margin_sum:.2f}, log-probability {bounds.logprob:.2f}"
            )
    lines += [
        f"{counts.answers:,} answers, {counts.choices:,} different choices, {counts.tokens:,} tokens: of choices like these, "
        f"drawn and verified on machines like this one, fewer than {100 * counts.rate:.2g} % are called unproven (3/N, 95 %)",
        f"SHA-256 {hashlib.sha256(raw).hexdigest()}",
        f"in {out}; use it with: grail verify RECEIPT --model FOLDER --table {out}",
    ]
    return "\n".join(lines)
