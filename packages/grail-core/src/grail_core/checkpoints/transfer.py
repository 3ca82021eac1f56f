"""Models in and out of a network: any local Transformers folder in, an ordinary Transformers folder out."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from grail_core.checkpoints.delta.shards import map_weights, save_weights
from grail_core.checkpoints.delta.tensors import DTYPES, Layout, RawTensor, to_torch
from grail_core.checkpoints.delta.weight_files import weight_files
from grail_core.checkpoints.publish import publishable
from grail_core.checkpoints.safety import CONFIG_FILE, ModelFiles, check_model_files, read_model_files
from grail_core.disk import storage_errors, sync_folder
from grail_core.errors import CheckpointError
from grail_core.generation.defaults import folder_notes, sampling_defaults
from grail_core.model.prompts import PromptRenderer
from grail_core.model.skeleton import check_configuration
from grail_core.model.tokenizer_files import cutting_notes
from grail_core.model.transformers_prompts import other_tokenizer_notes, require_transformers_agrees

_FLOATS = {"F64", "F32", "F16", "BF16"}
_ADAPTER_FILE = "adapter_config.json"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.\-]{0,95}/[A-Za-z0-9][\w.\-]{0,95}")
_EIGHT_BITS = {"F8_E4M3", "F8_E5M2"}  # cast like the others: every one of them is a number of bf16


@dataclass(frozen=True)
class ImportedModel:
    """Weights as raw tensors in the published type, and the files beside them."""

    weights: Mapping[str, RawTensor]
    files: ModelFiles
    notes: tuple[str, ...] = ()
    """What the folder says of prompts and of drawing tokens and a network does not follow, one sentence each."""

    @property
    def parameters(self) -> int:
        return sum(tensor.layout.elements for tensor in self.weights.values())

    @property
    def nbytes(self) -> int:
        return sum(tensor.layout.nbytes for tensor in self.weights.values())


def import_model(folder: Path, *, dtype: str = "BF16", for_network: bool = False) -> ImportedModel:
    """Read a model that somebody saved with `save_pretrained`; floating-point weights are cast to `dtype`.

    Weights already in `dtype` are mapped, not copied.

    Args:
        for_network: also refuse a folder that cannot be a network's first checkpoint: without a tokenizer, a chat template or
            an end token nobody can make prompts or end completions.

    Raises:
        CheckpointError: no safetensors weights or a part of them, no config, remote code, an impure chat template or prompts
            that are not Transformers' (see `safety`), a way to draw tokens that a network cannot do without (see
            `generation.folder_fields`), an architecture that the protocol does not describe or that is not decoded here (see
            `model.architecture`), or weights that are not finite as they would be published.
    """
    if dtype not in _FLOATS:
        raise CheckpointError(f"weights cannot be published as {dtype}", hint="BF16 is what the protocol runs")
    folder = Path(folder)
    if not folder.is_dir():
        raise _no_folder(folder)
    _refuse_adapter(folder)
    files = read_model_files(folder)
    require_transformers_agrees(folder)
    if for_network:
        PromptRenderer(folder)
        sampling_defaults(folder)
    notes = folder_notes(folder) + other_tokenizer_notes(folder) + cutting_notes(folder)
    weights = publishable(map_weights(folder))
    _require_package_reads(folder)
    config = json.loads(files.files[CONFIG_FILE])
    check_configuration(config, where=str(folder))
    if config.get("tie_word_embeddings"):
        weights = _without_second_head(weights)
    cast = {name: _cast(name, tensor, dtype, folder) for name, tensor in weights.items()}
    names = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
    config.pop("torch_dtype", None)
    config["dtype"] = names[dtype]
    changed = {**files.files, CONFIG_FILE: json.dumps(config, indent=2, sort_keys=True).encode() + b"\n"}
    return ImportedModel(cast, check_model_files(changed, where=str(folder)), notes)


def _no_folder(folder: Path) -> CheckpointError:
    if folder.exists():
        return CheckpointError("this is no folder", where=str(folder), hint="name the folder that the model's files are in")
    if _HUB_NAME.fullmatch(str(folder)):
        return CheckpointError(
            "there is no such model folder, and a model of a hub is not fetched by itself",
            where=str(folder),
            hint=f"fetch it first: `hf download {folder} --local-dir FOLDER`, then name that folder",
        )
    return CheckpointError(
        "there is no such model folder", where=str(folder), hint="name a folder that save_pretrained or `hf download` wrote"
    )


def _refuse_adapter(folder: Path) -> None:
    if (folder / _ADAPTER_FILE).is_file() and next(folder.glob("model*.safetensors*"), None) is None:
        raise CheckpointError(
            f"this is an adapter ({_ADAPTER_FILE}), not a model: it holds what is added to another model's weights",
            where=str(folder),
            hint="merge it: `AutoPeftModelForCausalLM.from_pretrained(folder).merge_and_unload().save_pretrained(merged)` "
            "(peft), with the tokenizer beside it",
        )


def export_checkpoint(cached: Path, folder: Path) -> None:
    """Copy a cached checkpoint to `folder`, which must not exist or be empty; whole or not at all. Its signed manifest goes
    with it, byte for byte: by that the folder shows whose checkpoint it is.

    Raises:
        CheckpointError: something is there already.
        StorageError, DiskFullError: the folder cannot be written.
    """
    with _new_folder(folder) as temporary:
        for path in sorted(cached.iterdir()):
            if path.is_file():
                shutil.copyfile(path, temporary / path.name)


def save_imported(model: ImportedModel, folder: Path, *, check: Callable[[Path], None] = lambda written: None) -> None:
    """Write an imported model as a Transformers folder, which must not exist or be empty; whole or not at all.

    Args:
        check: looks at what was written before it gets its name, and raises where it is not fit to be published.

    Raises:
        CheckpointError: something is there already, or `check` says so.
        StorageError, DiskFullError: the folder cannot be written.
    """
    with _new_folder(folder) as temporary:
        for name, data in model.files.files.items():
            (temporary / name).write_bytes(data)
        save_weights(temporary, model.weights)
        check(temporary)


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder` when the block ends without an error."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError("there is something in this folder already", where=str(folder), hint="name a new folder")
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            yield temporary
            temporary.chmod(0o755)
            sync_folder(temporary)
            os.rename(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _require_package_reads(folder: Path) -> None:
    """Our reader is stricter in what a header means, the package of the format in some of its forms: both must take it."""
    from safetensors import SafetensorError, safe_open

    for path in weight_files(folder):
        try:
            with safe_open(str(path), "np"):
                pass
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(
                f"the safetensors package refuses the file: {error}",
                where=str(path),
                hint="save the model anew with save_pretrained(folder)",
            ) from error


def _without_second_head(weights: dict[str, RawTensor]) -> dict[str, RawTensor]:
    """Some tools save the tied head as a copy; it is the embedding, so it is not published twice."""
    head = weights.get("lm_head.weight")
    twins = [n for n, t in weights.items() if n != "lm_head.weight" and head is not None and t.layout == head.layout]
    if head is not None and any((weights[name].bits == head.bits).all() for name in twins):
        return {name: tensor for name, tensor in weights.items() if name != "lm_head.weight"}
    return weights


def _cast(name: str, tensor: RawTensor, dtype: str, folder: Path) -> RawTensor:
    import torch

    if tensor.layout.dtype.name not in _FLOATS | _EIGHT_BITS:
        return tensor
    values = to_torch(replace(tensor, bits=tensor.bits if tensor.bits.flags.writeable else tensor.bits.copy()))
    if tensor.layout.dtype.name in _EIGHT_BITS:
        values = values.float()  # torch asks nothing of them as they are
    if not bool(torch.isfinite(values).all()):
        raise CheckpointError(
            "the weights are not finite", where=f"{folder}: {name}", hint="this model is broken; import another"
        )
    if tensor.layout.dtype.name == dtype:
        return tensor
    target = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}[dtype]
    made = values.to(target).contiguous()
    if not bool(torch.isfinite(made).all()):
        raise CheckpointError(
            f"a weight of {float(values.abs().max()):.3g} is beyond what {dtype} holds",
            where=f"{folder}: {name}",
            hint="this model cannot be published in that type; scale the weights, or import another",
        )
    layout = Layout(DTYPES[dtype], tensor.layout.shape)
    if not layout.elements:
        return RawTensor.empty(layout)
    return RawTensor(layout, made.view(-1).view(torch.uint8).numpy().view(layout.dtype.bits))
