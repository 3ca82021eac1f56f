"""The power study: what the proof detects, measured on a small language model that is really trained.

`study.run` trains (or finds in its cache) a tiny Qwen2, lets honest miners of every numerics and dishonest miners of every
deviation answer the same prompts, measures both as a validator would, and asks `grail_core.proof.statistics` for its
decision. Each step's result is kept under the digest of what made it, so a study that was stopped goes on where it was.
"""
