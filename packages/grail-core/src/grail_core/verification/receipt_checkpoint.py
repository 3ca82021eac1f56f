"""Whether the checkpoint that a receipt names is its network's own: held against the manifest that the trainer signed.

The manifest lies in the model's folder (`grail checkpoint export` puts it there) and is a stranger's until its signature is
the trainer's, of these parameters. It must be that of the receipt's checkpoint and describe the receipt's model; that the
folder holds this model is looked at before. When the checkpoint was valid is in the manifest, when it answered is nowhere.
"""

from __future__ import annotations

from typing import Final

from grail_core.errors import CheckpointError
from grail_core.inference.receipts import Receipt, ServedCheckpoint
from grail_core.protocol.findings import Finding, Outcome
from grail_core.protocol.manifest import CheckpointManifest, parse
from grail_core.protocol.network import UNSET_HOTKEY
from grail_core.protocol.types import Digest, Hotkey
from grail_core.verification.wording import accept, reject, say

CHECK: Final = "model"
_CONFIG_FILE: Final = "config.json"


def check_checkpoint(
    receipt: Receipt, named: ServedCheckpoint, manifest: bytes | None, trainer: Hotkey | None, network_id: Digest
) -> Finding:
    """Accept: the network's own. Reject: the manifest is none of the trainer's, or of something else. Inconclusive: there is
    nothing to hold it against, and the detail says why.

    Args:
        named: the receipt's checkpoint. manifest: the bytes of the folder's manifest; None: it has none.
        trainer: of the network's parameters; None: without a chain there is none.
    """
    claim = f"that this is the network's checkpoint {named.sequence}: not checked"
    if trainer is None or trainer == UNSET_HOTKEY:
        return say(Outcome.INCONCLUSIVE, CHECK, detail=f"{claim}, the network names no trainer")
    if manifest is None:
        return say(Outcome.INCONCLUSIVE, CHECK, detail=f"{claim}, no manifest in the folder")
    try:
        signed = parse(manifest, trainer_hotkey=trainer, network_id=network_id, where="grail-manifest.json")
    except CheckpointError as error:
        return reject(CHECK, detail=f"the folder's manifest does not show the network's checkpoint: {error.what}")
    wrong = _contradiction(receipt, named, signed)
    if wrong is not None:
        return reject(CHECK, detail=wrong)
    return accept(CHECK, detail=f"the network's own checkpoint {signed.sequence}, valid from block {signed.valid_from}")


def _contradiction(receipt: Receipt, named: ServedCheckpoint, signed: CheckpointManifest) -> str | None:
    is_named = (signed.digest, signed.sequence, signed.valid_from)
    if is_named != (named.digest, named.sequence, named.valid_from):
        return (
            f"the receipt names checkpoint {named.sequence} ({named.digest.hex()[:16]}…, from block {named.valid_from}), the "
            f"folder's signed manifest is of checkpoint {signed.sequence} ({signed.digest.hex()[:16]}…, from block "
            f"{signed.valid_from})"
        )
    model = receipt.model
    config = next((file.object.sha256 for file in signed.files if file.path == _CONFIG_FILE), None)
    for field, of_manifest, of_model in (
        ("architecture", signed.architecture, model.architecture),
        (_CONFIG_FILE, config, model.config_digest),
        ("weights root", signed.weights_root, model.weights_root),
        ("tokenizer", signed.tokenizer_digest, model.tokenizer_digest),
        ("chat template", signed.chat_template_digest, model.chat_template_digest),
        ("thinking mode", signed.thinking_mode, model.thinking_mode),
        ("set of end tokens", signed.end_token_ids, model.end_token_ids),
    ):
        if of_manifest != of_model:
            return f"checkpoint {signed.sequence} of the network has another {field} than the model of the receipt"
    return None
