"""What an operator sets of a node that answers requests (`grail-miner serve`). Declarations alone."""

from __future__ import annotations

from pydantic import BaseModel

from grail_core.participant.settings_fields import MINER, SERVING, FilePath, WholeNumber, setting


class ServingSettings(BaseModel):
    """Every field's alias is its public name; see `settings.Settings`, of which this is a part."""

    serve_listen: str = setting(
        "GRAIL_SERVE_LISTEN",
        SERVING,
        MINER,
        "where a node answers requests; without `GRAIL_SERVE_TOKENS` a loopback address alone",
        default="127.0.0.1:4000",
        wanted="an address with a port (127.0.0.1:4000)",
    )
    serve_tokens: FilePath | None = setting(
        "GRAIL_SERVE_TOKENS",
        SERVING,
        MINER,
        "TOML file of the clients that may ask a node from elsewhere: names, hashes of tokens, limits (`grail-miner token`)",
        default=None,
    )
    serve_max_queue: WholeNumber = setting(
        "GRAIL_SERVE_MAX_QUEUE",
        SERVING,
        MINER,
        "requests that may wait; further ones are told to come back",
        default=256,
        ge=1,
        le=65_536,
    )
