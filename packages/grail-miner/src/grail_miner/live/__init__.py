"""What a person sees of a running miner on a terminal. Nothing here is needed to mine."""
