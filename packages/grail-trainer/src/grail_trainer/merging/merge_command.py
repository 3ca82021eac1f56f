"""`grail-trainer merge`: does a round's checkpoint follow from the files that it names?"""

from __future__ import annotations

import json
from pathlib import Path

import click

from grail_core.errors import ProtocolViolationError
from grail_core.participant.deployment import open_checkpoints
from grail_core.participant.settings import Settings
from grail_core.protocol.types import Window
from grail_core.storage.layout import manifest_key
from grail_core.text import printable
from grail_trainer.merging.recomputed import Recomputed, recompute


def merge_command(settings: Settings, round_: Window, *, out: Path | None, as_json: bool) -> None:
    """Merge a round again and print what came out.

    Raises:
        ProtocolViolationError: it is not what was published; names the tensors.
    """
    source = open_checkpoints(settings).checkpoints
    source.view()  # a rewritten history is found here
    result = recompute(source.bucket(), round_, out=out)
    click.echo(json.dumps(result.to_json()) if as_json else _line(result))
    if out is not None and not as_json:
        click.echo(f"written to {out}")
    if not result.equal:
        raise ProtocolViolationError(
            f"the merge of round {round_} is not the published checkpoint {result.manifest.sequence}: "
            f"{len(result.different)} of its tensors differ, first {printable(', '.join(result.different[:3]))}",
            where=manifest_key(result.manifest.valid_from),
            hint="the trainer signed weights that do not follow from the files it names; keep the manifest and report it",
        )


def _line(result: Recomputed) -> str:
    how = "as published" if result.equal else f"published is {result.manifest.weights_root.hex()}"
    return (
        f"round {result.round}: checkpoint {result.manifest.sequence} from checkpoint {result.parent.sequence} and "
        f"{result.updates} updates of {result.bytes} bytes: root {result.root.hex()}, {how}"
    )
