"""What gradient work trains on: corpora by name and digest. `opening.corpus_of` finds the one that a manifest names."""
