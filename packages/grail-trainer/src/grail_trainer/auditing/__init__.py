"""The proof of training: anybody repeats what a trainer published, from public data, and compares."""
