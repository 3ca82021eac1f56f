"""Other people's environments as ours: `verifiers` packages, and one-step environments in the form of Gymnasium or OpenEnv.

The package is loaded in a process of its own (`foreign_side`), never in a miner's or validator's; what judges a completion is
a fork of that process without network, files or time of its own, and gone afterwards. `package` binds what is installed to
the spec, `foreign` makes an `Environment` of it, `checks` tries what it must keep, `export` goes the other way.
"""
