"""The power study: what the proof detects at every size of model, and what it costs honest work.

`study` collects, on models that are trained here or made random with the outliers of real weights, what honest miners of every
numerics and dishonest ones of every deviation claim, and what a validator measures of it; `judge`, `search` and `table` ask
`grail_core.proof` for its decisions, of what was collected and without a run of any model. Each step's result is kept under the
digest of what made it, so a study that was stopped goes on where it was.
"""
