"""What checks need to know of a checkpoint's model that its weights do not have to be loaded for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from grail_core.errors import CheckpointError
from grail_core.model.architecture import context_length
from grail_core.model.skeleton import skeleton


@dataclass(frozen=True)
class ModelDescription:
    """Counts, as `PolicyModel` has them of the loaded model."""

    vocabulary_size: int  # rows of the head
    context_length: int  # tokens
    layers: int
    hidden_size: int

    @classmethod
    def of(cls, files: Mapping[str, bytes]) -> ModelDescription:
        """Of a checkpoint's files, which were checked before (`checkpoints.fetch.model_files`).

        Raises:
            CheckpointError: there is no configuration, or it makes no model.
        """
        try:
            config = json.loads(files["config.json"])
        except (KeyError, ValueError) as error:
            raise CheckpointError("the checkpoint has no configuration that can be read", where="config.json") from error
        module = skeleton(config)
        rows, hidden = module.get_output_embeddings().weight.shape
        return cls(int(rows), context_length(module), int(module.config.num_hidden_layers), int(hidden))
