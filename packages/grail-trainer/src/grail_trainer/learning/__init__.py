"""The update: a function of rollouts, weights and settings; no store, chain or file of a stranger."""
