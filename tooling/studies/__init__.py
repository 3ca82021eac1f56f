"""What takes long and ends in figures: power over sizes, the shipped calibration, benchmarks, learning curves, seed sweeps."""
