"""A whole subnet in one process and no time: the validator's own decisions under a virtual clock, chain, beacon and stores.

`world` is what everybody shares (blocks and their forks, rounds, buckets); `faults` says from a seed what goes wrong where and
when; `miners` are honest or not; `validator` takes the real steps (`grail_validator.steps`, `judging`) over `memory_ledger` or
the real ledger; `promises` holds every published verdict against what must be true whatever goes wrong; `run` lets it all live,
block by block. Nothing here asks a clock, sleeps, or starts a thread, so a seed is a run: same seed, same bytes.

Examinations are scripted, since what a proof sees is not what is asked here: a file says itself which groups are junk, and the
protocol's own sample of it decides whether that is seen. Everything else is what runs: seals are signed and read, coins tossed,
rollouts counted once, verdicts encoded, signed and decoded.
"""
