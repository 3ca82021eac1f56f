"""What leaves a trainer: checkpoints, the signed training log, state anchors."""
