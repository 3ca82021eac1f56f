"""`grail-miner doctor`: everything that a miner's start would trip over, found at once and without mining."""
