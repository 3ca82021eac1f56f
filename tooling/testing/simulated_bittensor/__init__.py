"""A subnet behind the bittensor SDK's `Substrate` seam whose state machine is the development chain.

Registrations, UID recycling, commitments, stake, permits, rate limits, weights, commit-reveal and emission are `LocalChain`'s,
in a SQLite file that processes share; what a subtensor has besides is added here: several nodes with faults of their own
(`faults`), what a node knows of the chain (`node`), epochs whose tempo changes (`epochs`), the answers that the SDK decodes
(`answers`) and extrinsics, which are signed by the key that the SDK is given (`extrinsics`). `SimulatedBittensor.substrate`
takes the place of `bittensor.RpcSubstrate`; everything above it is the SDK's and the adapter's own.

What it is not: no SCALE encoding, no websocket, no transaction pool; an extrinsic is answered when it is accepted, in the block
after the head, and not when it is final. Weights that are committed under drand's timelock are really encrypted by the SDK, but
a round to come has no signature here, so they are opened by what this process remembers of them (`openings`).
"""
