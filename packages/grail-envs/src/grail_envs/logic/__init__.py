"""Eight families of seeded puzzles, each with its own generator, question and verifier; nothing is evaluated as code."""
