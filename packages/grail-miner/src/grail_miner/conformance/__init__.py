"""Does an engine draw the tokens that a verifier draws? `probes` asks it, `reading` holds the answers against our own model,
`suspects` and `causes` say what else the tokens follow from, `report` tells a person."""
