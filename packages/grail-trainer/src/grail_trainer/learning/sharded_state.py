"""The training state of several ranks on disk: a folder into which each writes its shards (torch.distributed.checkpoint).

Any number of ranks reads it, whoever wrote it, to the bit. It is written beside and takes its name in one step, so a kill at
any instruction leaves the old state or the new one. All ranks must see the same folder: one machine, or a shared file system.
Its index is a pickle, as torch writes it: the folder is the trainer's own, and its digest stands in the journal.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from grail_core.disk import remove_any, storage_errors, sync_folder
from grail_core.errors import CheckpointError, StorageError, is_out_of_memory
from grail_trainer.learning.ranks import ALONE, Ranks
from grail_trainer.learning.training_state import read_state_file

INDEX = ".metadata"
"""Torch's name for what says which shard is where; it is written last."""


def write_sharded(state: Mapping[str, Tensor], folder: Path, ranks: Ranks = ALONE) -> None:
    """Write a state atomically and durably. Every rank calls it, with its shards.

    Args:
        folder: what stands there is replaced: it is no state that anything names.

    Raises:
        StorageError, DiskFullError: nothing stands there then that did not before.
    """
    beside = folder.with_name(f".{folder.name}.shards")
    with storage_errors(folder):
        if ranks.first:
            remove_any(beside)
            beside.mkdir(parents=True)
        ranks.meet()  # the folder is there
        writer = FileSystemWriter(beside, single_file_per_rank=True, sync_files=True)
        try:
            with _one_process_may():
                save(dict(state), storage_writer=writer, process_group=ranks.control, no_dist=ranks.mesh is None)
        except CheckpointException as error:
            raise _cause(error) from error
        if ranks.first:
            sync_folder(beside)
            remove_any(folder)
            beside.rename(folder)
            sync_folder(folder.parent)
    ranks.meet()  # it has its name


def read_sharded(
    folder: Path, place: Callable[[Mapping[str, Tensor]], dict[str, Tensor]], ranks: Ranks = ALONE
) -> dict[str, Tensor]:
    """Read what `write_sharded` wrote, by however many ranks. Every rank calls it.

    Args:
        place: from what is there, tensors of these shapes and types (numbers of no dimension have memory, the others none), to
            memory for each, in shards as they are wanted; refuses what does not fit.

    Raises:
        CheckpointError: it cannot be read, or `place` raised it.
    """
    try:
        reader = FileSystemReader(folder)
        stored = reader.read_metadata().state_dict_metadata
        described = {
            name: torch.zeros(one.size, dtype=one.properties.dtype, device="meta" if one.size else "cpu")
            for name, one in stored.items()
            if isinstance(one, TensorStorageMetadata)
        }
        numbers = {name: one for name, one in described.items() if not one.dim()}
        with _one_process_may():
            load(numbers, storage_reader=reader, process_group=ranks.control, no_dist=ranks.mesh is None)
        placed = place(described)
        rest = {name: one for name, one in placed.items() if name not in numbers}
        with _one_process_may():
            load(rest, storage_reader=FileSystemReader(folder), process_group=ranks.control, no_dist=ranks.mesh is None)
    except CheckpointError as error:
        raise CheckpointError(error.what, where=error.where or str(folder), hint=error.hint) from error
    except (Exception, CheckpointException) as error:  # torch raises many kinds for a broken folder
        cause = _cause(error)
        if is_out_of_memory(cause):
            raise
        raise CheckpointError(f"the training state cannot be read: {cause}", where=str(folder)) from error
    return placed


def _cause(error: BaseException) -> BaseException:
    """What went wrong on the rank that said so: torch collects all ranks' errors in one, which is no `Exception`."""
    failures = error.failures if isinstance(error, CheckpointException) else {}
    return next((wrapped[0] for wrapped in failures.values()), error)


@contextmanager
def _one_process_may() -> Iterator[None]:
    """Torch warns of it, once a call."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        yield


def read_whole(path: Path) -> dict[str, Tensor]:
    """A state as one process has it, on the CPU: from the file of one process, or from the folder of several.

    Raises:
        CheckpointError: it cannot be read.
    """
    return read_sharded(path, _memory_for) if path.is_dir() else read_state_file(path)


def _memory_for(described: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.empty_like(one, device="cpu") if one.is_meta else one for name, one in described.items()}


def folder_digest(folder: Path) -> str:
    """Hex SHA-256 over names and digests of a folder's files, in order of name.

    Raises:
        StorageError: it cannot be read, or nobody's shards are in it.
    """
    digest = hashlib.sha256()
    if not (folder / INDEX).is_file():
        raise StorageError("a folder without shards stands where a training state belongs", where=str(folder))
    with storage_errors(folder):
        for path in sorted(folder.iterdir()):
            with path.open("rb") as file:
                digest.update(f"{path.name}|{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
