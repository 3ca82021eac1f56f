"""New weights for a model that is loaded: another folder of the same configuration, without building the model again.

Building takes Transformers longer than reading does, at any size but the largest. Here the tensors of the new folder take the
places of the old ones: on the CPU they are mapped and not copied, so that processes share their pages as after a load; on a
device each is copied into the memory that is there, so that two copies of the weights need not fit.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from grail_core.errors import StorageError

if TYPE_CHECKING:
    from grail_core.model.policy_model import PolicyModel


@torch.no_grad()
def reload_weights(model: PolicyModel, folder: Path) -> bool:
    """The folder's weights in place of the model's.

    Returns:
        False, and nothing is changed, where the folder is not one of the same `config.json` whose files hold exactly the
        model's tensors by name, shape and dtype: then it has to be loaded, or its loading says what is wrong with it.

    Raises:
        StorageError: the system refuses to read it, and nobody knows which weights the model has now.
    """
    from safetensors import SafetensorError, safe_open

    try:
        config = folder / "config.json"
        if model.config_file is None or not config.exists() or config.read_bytes() != model.config_file:
            return False
        live = model.state()
        parameters = dict(model.module.named_parameters())
        if not live.keys() <= parameters.keys():
            return False  # a buffer among the weights
        with ExitStack() as stack:
            files = [stack.enter_context(safe_open(path, framework="pt")) for path in sorted(folder.glob("*.safetensors"))]
            held: dict[str, Any] = {}
            for file in files:
                for name in file.keys():  # noqa: SIM118 - it is no mapping
                    if name in held:
                        return False
                    held[name] = file
            tensors = {name: file.get_tensor(name) for name, file in held.items()}
        if tensors.keys() != live.keys() or any(
            tensors[name].shape != live[name].shape or tensors[name].dtype != live[name].dtype for name in live
        ):
            return False
        with model.lock:
            for name, tensor in tensors.items():
                if model.device.type == "cpu":
                    parameters[name].data = tensor
                else:
                    parameters[name].data.copy_(tensor)
            model.weights_changed()
    except (OSError, SafetensorError) as error:
        raise StorageError(f"new weights cannot be read: {error}", where=str(folder)) from error
    return True
