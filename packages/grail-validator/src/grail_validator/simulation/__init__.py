"""Does anything pay more than honest work? Windows of one network, by the protocol's own functions.

`plans` says what a hotkey may do in a window and what it may know of itself before; `strategies`, `dodging` and
`faults_on_demand` are the rows of the `table`, `sizes` files of every size;
`network` lives windows with `protocol.selection` and `protocol.scores` themselves; `replicas` lives many copies of a strategy
at once in float64, equal to `network` within 1e-9 (tested); `measure` turns both into pay per cost and per slot with intervals.
`skipping`, `hotkeys`, `crowding`, `company` and `newcomers` ask what one hotkey's windows do not answer; `results`, `page` and
`plots` hold and show what a run measured. Nothing here reads a chain, a store or a model: junk is what an audit finds where it
looks, never a question of proofs. `subnet` is another simulation: of validators, and of what goes wrong around them.
"""
