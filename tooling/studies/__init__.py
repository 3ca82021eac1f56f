"""What takes long and ends in figures: the power study, benchmarks, the shipped calibration, learning curves, seed sweeps."""
