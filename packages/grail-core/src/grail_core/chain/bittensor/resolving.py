"""From a setting to endpoints: the SDK's named networks with their fall-back and archive nodes, or URLs of one's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from grail_core.errors import ConfigurationError


@dataclass(frozen=True)
class Resolved:
    """URLs of a network's nodes in the order of preference, and of its archive nodes. genesis: hash of block 0, where known."""

    endpoints: tuple[str, ...]
    archives: tuple[str, ...]
    genesis: str | None


def resolved(network: str) -> Resolved:
    """The nodes of a network.

    Args:
        network: a name, or `ws://` or `wss://` URLs separated by commas. Among these, one of the SDK's own brings the other
            nodes of its network with it; others have neither fall-backs but each other, nor archives.

    Raises:
        ConfigurationError: the SDK is not installed, there is no such network, or a URL is none. It does not repeat a URL,
            which may hold a key.
    """
    try:
        import bittensor
        from bittensor import settings
    except ImportError as error:
        raise ConfigurationError(
            "a Bittensor network needs the bittensor SDK", where="BT_NETWORK", hint="pip install 'grail-core[bittensor]'"
        ) from error
    endpoints: list[str] = []
    archives: list[str] = []
    genesis = None
    for part in network.split(","):
        try:
            name, endpoint = settings.resolve_endpoint(part.strip())
        except (ValueError, bittensor.BittensorError):
            name = endpoint = ""
        if not endpoint and not {":", "/", "@"} & set(network):
            raise ConfigurationError(
                f"there is no network called {network!r}", where="BT_NETWORK", hint="finney, test, or set BT_CHAIN_ENDPOINT"
            )
        if not endpoint.startswith(("ws://", "wss://")):
            raise ConfigurationError(
                "a chain endpoint is a ws:// or wss:// URL, or several separated by commas",
                where="BT_CHAIN_ENDPOINT",
                hint="or unset it and set BT_NETWORK=finney; a development chain's file needs BT_NETWORK=local",
            )
        endpoints += [endpoint, *settings.default_fallback_endpoints(name)]
        archives += settings.default_archive_endpoints(name)
        genesis = settings.FINNEY_GENESIS_HASH if name == "finney" else genesis
    return Resolved(tuple(dict.fromkeys(endpoints)), tuple(dict.fromkeys(archives)), genesis)


def clients_by_sdk() -> Callable[[str], tuple[Any, Any]]:
    """What makes an SDK client for one URL. It has one endpoint: which is asked is decided here and not by the SDK.

    The client bears the name `local`, never the URL: the SDK names files in the home folder by it.
    """
    import bittensor

    def make(url: str) -> tuple[Any, Any]:
        substrate = bittensor.RpcSubstrate(url)
        return bittensor.Client("local", substrate=substrate), substrate

    return make
