"""Rounds of gradient work in one process on a virtual clock: `python -m tooling.rounds`.

Honest miners, miners that lie, validators and the aggregator are the shipped services over one development chain and folders
for buckets; only the clock is moved by hand. What a run has to show is in `promises`; nothing here decides what a role decides.
"""
