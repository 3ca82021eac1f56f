"""The sequence of checkpoints: manifest, delta codec, publishing, fetching, retention. docs/checkpoints.md has the formats.

Nothing is re-exported here, so that a command line that needs a manifest only does not load compiled loops or torch.
"""
