"""`grail-miner bench`: which number of groups per batch is best on this machine, measured with what a window is made with."""
