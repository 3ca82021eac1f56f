"""Which files of a folder are its weights, and whether all of them are there.

One file, or several with Transformers' index, which says what is complete: a folder of which a part was not downloaded looks
like a smaller model otherwise. Without an index the count in the files' names says it. An index is a stranger's: its size is
bounded before it is read, and it can name no file outside of its folder.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from grail_core.checkpoints.delta.tensors import check_name
from grail_core.errors import CheckpointError
from grail_core.lfs_pointers import refuse_pointer
from grail_core.protocol.reading import distinct_members

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_SHARDS = 1 << 16
MAX_LISTED = 1 << 18
"""Tensors of an index."""
MAX_INDEX_BYTES = 32 << 20

_SHARD = re.compile(r"model-(\d{1,9})-of-(\d{1,9})\.safetensors")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,200}\.safetensors")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that Transformers would load from a folder, all of them: the index says which they are, and where
    there is none, the count in their names.

    Raises:
        CheckpointError: there are none, one is missing, or the index cannot be read.
    """
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE]
    listed = listed_tensors(folder)
    names = set(listed.values()) if listed is not None else _counted(folder)
    if not names:
        raise CheckpointError(
            "the folder holds no safetensors weights",
            where=str(folder),
            hint="save the model with save_pretrained(folder); pickled weights (.bin, .pt) are not read",
        )
    paths = [folder / name for name in sorted(names)]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise CheckpointError(
            f"{len(missing)} of {len(paths)} files of weights are missing: {', '.join(missing[:3])}",
            where=str(folder),
            hint="fetch the model again, whole",
        )
    return paths


def _counted(folder: Path) -> set[str]:
    """Names of all shards, by the counts in the names of those that are there."""
    found = [match for path in folder.glob("model-*-of-*.safetensors") if (match := _SHARD.fullmatch(path.name))]
    counts = sorted({match[2] for match in found})
    if len(counts) > 1:
        raise CheckpointError(
            f"the folder holds shards of two models, of {' and of '.join(counts[:2])} files, and no index",
            where=str(folder),
            hint="leave the files of one of them, or fetch the index",
        )
    if counts and int(counts[0]) > MAX_SHARDS:
        raise CheckpointError(
            f"a model has at most {MAX_SHARDS} files, not {counts[0]}", where=str(folder), hint="save it in fewer"
        )
    return {
        f"model-{number:0{len(found[0][1])}d}-of-{count}.safetensors" for count in counts for number in range(1, int(count) + 1)
    }


def listed_tensors(folder: Path) -> dict[str, str] | None:
    """Tensor → file, as the index says; None where there is no index.

    Raises:
        CheckpointError: the index is malformed, or names a file outside of the folder.
    """
    path = folder / INDEX_FILE
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_INDEX_BYTES + 1)
        refuse_pointer(raw, where=str(path))
        # As for headers: counted before objects are made of them. Floats are let through: `metadata` is anybody's.
        if len(raw) > MAX_INDEX_BYTES or max(raw.count(part) for part in (b":", b",", b"[", b"{")) > 2 * MAX_LISTED:
            raise ValueError("it is larger than any model's")
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=distinct_members)
        listed = value.get("weight_map") if isinstance(value, dict) else None
        if not isinstance(listed, dict) or not listed:
            raise ValueError("it has no weight_map")
        for name, file_name in listed.items():
            check_name(name)
            if not isinstance(file_name, str) or not _FILE.fullmatch(file_name):
                raise ValueError(f"{name}: {file_name!r:.80} is no name of a safetensors file in this folder")
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(
            f"the index of the weights cannot be used: {error}",
            where=str(path),
            hint="fetch the file again, or save the model anew with save_pretrained(folder)",
        ) from error
    return listed
