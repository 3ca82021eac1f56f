"""Spell a word backwards: one reset, one step."""

import random

WORDS = ("window", "beacon", "ledger", "rollout", "policy", "sketch", "token", "seal")


def word_of(seed: int, length: int) -> str:
    rng = random.Random(seed)
    return "".join(rng.choice(WORDS) for _ in range(length))


def asked(word: str) -> str:
    return f"Spell backwards: {word}"


def earned(word: str, said: str) -> float:
    return 1.0 if said == word[::-1] else 0.5 * float(len(said) == len(word))
