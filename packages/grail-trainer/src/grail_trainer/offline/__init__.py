"""Learning from an export of verified rollouts: no network, no wallet, no bucket; the learner is the network's own."""
