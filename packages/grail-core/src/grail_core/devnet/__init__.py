"""A network for development on one machine: `grail devnet` over it, and localnet built on its parts.

`network` makes keys, wallets, chain, registrations, stake and parameters of a seed; `settings` is what a role is told of them.
The rest is of `grail devnet` alone: `folder` (what lies where), `making` (init, add, fund), `running` (up, advance, down) and
`status`. Nothing here is fit for strangers: whoever reads the folder has every key.
"""
