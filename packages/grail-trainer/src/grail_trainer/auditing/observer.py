"""Who looks and takes no part: a participant without wallet and bucket, for whoever audits a trainer.

Everything that is read is public: the chain, the beacon, the buckets that others committed. It signs nothing; the key it has
is the same for everybody, and stands there because a participant has one.
"""

from __future__ import annotations

import hashlib

from grail_core.beacon.drand import DrandBeacon
from grail_core.keys import LocalSigner
from grail_core.participant.buckets import PublicBuckets
from grail_core.participant.deployment import network_parameters, open_chain, open_reader
from grail_core.participant.participant import Participant
from grail_core.participant.settings import Settings
from grail_core.storage.base import StoreDirectory


def observer(settings: Settings) -> Participant:
    """A participant of the settings' network that can only look.

    Its state (which checkpoints were seen before, so that a rewritten history is found out) is kept in the cache.

    Raises:
        ConfigurationError, ChainError: the network or its chain cannot be had.
    """
    params = network_parameters(settings)
    chain = open_chain(settings)
    directory: StoreDirectory = (
        PublicBuckets(settings, params) if settings.storage_root is None else open_reader(settings, params, chain)
    )
    relays = [url.strip() for url in settings.beacon_urls.split(",") if url.strip()]
    beacon = DrandBeacon(params.beacon, relays, settings.cache_dir / "beacon", clock=None, attempts=2)
    return Participant(
        params=params,
        chain=chain,
        directory=directory,
        beacon=beacon,
        signer=LocalSigner.from_seed(hashlib.sha256(b"grail/observer").digest()),
        cache_dir=settings.cache_dir,
        state_dir=settings.cache_dir / "audit",
        checkpoint_cache_bytes=settings.checkpoint_cache_gib << 30,
        file_cache_bytes=settings.file_cache_gib << 30,
        calibration=settings.calibration,
    )
