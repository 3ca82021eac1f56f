"""Real engines on this machine's processor, held against the verifier: `hatch run conformance`."""
