"""Every seed of an answer. The order fixes all of them but the beacon's part; a node can vary none.

`sampling` is used as a rollout's seed is, and `sketch` as a window's: `projections(randomness, seeds.sketch, d)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from grail_core.inference.features import features_digest
from grail_core.inference.orders import NOBODY, Order
from grail_core.inference.typed_data import Domain, order_digest
from grail_core.protocol.encoding import tagged_hash, tagged_stream
from grail_core.protocol.types import Digest, Hotkey

NO_RANDOMNESS = bytes(32)
"""In place of a beacon's, where the draw follows from the order alone."""


@dataclass(frozen=True)
class RequestSeeds:
    """Of one interval of one order, answered by one node with one model."""

    network_id: bytes
    request_digest: Digest
    draw_seed: Digest
    node: Hotkey

    def sampling(self, choice: int) -> int:
        """PRF("grail/infer/sample", draw_seed, choice; 8), 64 bits with the top bit cleared."""
        stream = tagged_stream(self.network_id, "grail/infer/sample", self.draw_seed, choice, length=8)
        return int.from_bytes(stream, "big") & (2**63 - 1)

    @cached_property
    def sketch(self) -> Digest:
        """H("grail/infer/sketch", draw_seed, node): another node's sketches fit nowhere else."""
        return tagged_hash(self.network_id, "grail/infer/sketch", self.draw_seed, self.node)


def request_digest(network_id: bytes, order_digest: bytes, interval: int, features_digest: bytes) -> Digest:
    """H("grail/infer/request", order, interval, features): what is asked.

    Raises:
        ValueError: intervals count from 1.
    """
    if interval < 1:
        raise ValueError(f"intervals count from 1, not {interval}")
    return tagged_hash(network_id, "grail/infer/request", order_digest, interval, features_digest)


def draw_seed(network_id: bytes, request_digest: bytes, model_digest: bytes, node: bytes, randomness: bytes) -> Digest:
    """H("grail/infer/draw", request, model, N, R). N: the node's hotkey, zero where nodes shall draw alike; R: the seed round's
    randomness, zero where the draw follows from the order alone."""
    for name, value in (("model digest", model_digest), ("node", node), ("randomness", randomness)):
        if len(value) != 32:
            raise ValueError(f"{name}: 32 bytes are expected, not {len(value)}")
    return tagged_hash(network_id, "grail/infer/draw", request_digest, model_digest, node, randomness)


def seeds_of(
    network_id: bytes,
    *,
    domain: Domain,
    order: Order,
    interval: int,
    salt: bytes,
    features: bytes,
    model_digest: bytes,
    node: Hotkey,
    randomness: bytes = NO_RANDOMNESS,
) -> RequestSeeds:
    """What a node draws by, and what everybody derives of a receipt.

    Raises:
        ValueError, OverflowError: an order that typed data cannot hold, or interval 0.
    """
    asked = request_digest(network_id, order_digest(domain, order), interval, features_digest(network_id, salt, features))
    alike = order.subscription.terms.agreement > 0
    drawn = draw_seed(network_id, asked, model_digest, NOBODY if alike else node, randomness)
    return RequestSeeds(network_id, asked, drawn, node)
