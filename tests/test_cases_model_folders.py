"""A folder is imported whole and as it will be published, or refused with what is wrong; what it costs is bounded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from grail_core.checkpoints.transfer import import_model, save_imported
from grail_core.errors import CheckpointError
from tests.cases.model_folders import CASES, NAMES, FolderCase, set_config, write_folder

MULTIPLIES = next(case for case in CASES if case.name == "a list that multiplies")


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_folder_is_imported_whole_or_refused_with_what_is_wrong(case: FolderCase, tmp_path: Path) -> None:
    write_folder(tmp_path)
    case.change(tmp_path)
    if case.refusal is None:
        assert sorted(import_model(tmp_path).weights) == sorted(NAMES)
        return
    with pytest.raises(CheckpointError) as refused:
        import_model(tmp_path)
    assert case.refusal in str(refused.value)


@pytest.mark.heavy
def test_a_configuration_that_takes_all_it_may_is_refused_in_a_child_of_its_own(tmp_path: Path) -> None:
    """As it is tried where it is imported: 4 GiB, and a fresh process."""
    write_folder(tmp_path)
    MULTIPLIES.change(tmp_path)
    with pytest.raises(CheckpointError, match=str(MULTIPLIES.refusal)):
        import_model(tmp_path)


def test_what_the_type_asked_for_cannot_hold_is_refused_and_what_it_holds_is_cast(tmp_path: Path) -> None:
    set_config(tmp_path)
    for value, dtype in ((65_504.0, "F16"), (1e6, "F32"), (1e6, "BF16")):
        save_file({"w": torch.tensor([value])}, tmp_path / "model.safetensors")
        assert import_model(tmp_path, dtype=dtype).parameters == 1
    for value in (1e6, -65_536.0):
        save_file({"w": torch.tensor([value])}, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError, match="beyond what F16 holds"):
            import_model(tmp_path, dtype="F16")


def test_what_was_written_and_is_not_fit_to_be_published_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    write_folder(tmp_path / "model")

    def refuse(written: Path) -> None:
        assert (written / "model.safetensors").is_file()
        raise CheckpointError("not fit")

    with pytest.raises(CheckpointError, match="not fit"):
        save_imported(import_model(tmp_path / "model"), tmp_path / "out", check=refuse)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
