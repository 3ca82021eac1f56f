"""The adversaries of the threat model, runnable: `python -m tooling.adversaries` prints what each tried and what became of it.

By what is dishonest, each lie once, for localnet, the table of attacks, the power study and the tests:

    tampering            honest rows changed after the fact
    hostile_files        window files that no honest writer makes
    miners               the shipped miner with one step replaced; `cheating_miner` runs one as a process
    gradient_miners      the shipped miner of gradient work, likewise
    deviations           other weights, other decoding, other proofs, as values that a study measures
    hostile_parquet      window files that attack whoever opens them; parquet_mutants changes them at random
    hostile_containers   window files in every other dress of Parquet; hostile_corpus opens all of these and many mutants
    hostile_programs     answers that attack the sandbox
    inconclusive_programs  answers that spoil their own judgement

`courtroom` puts what they make before the real checks; `scene` adds that up to rows; `crowd` puts a liar for each lie before a
validator as shipped. Each module `family_*.py` has `ATTACKS`, a mapping from the id of a threat to a function that gives its
row; it may take the keywords `seed`, `tries` and `quick`.
"""

STRATEGIES = ("zero-sketch", "best-of-n", "stale", "skip", "copy", "eight-bit")
"""Names of the miners of `tooling.adversaries.miners`; here, where reading them loads no model."""

GRADIENT_STRATEGIES = ("lazy", "swap", "stale", "copy", "noise", "flip", "scale", "late")
"""And of `tooling.adversaries.gradient_miners`, of gradient work."""
