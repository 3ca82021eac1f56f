"""`grail-validator serve`: what a validator judged, as pages, from its ledger or anybody's published verdicts."""
