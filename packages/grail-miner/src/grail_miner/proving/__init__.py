"""Proofs of finished groups: in this process, in its threads, or in processes that hold no key."""
