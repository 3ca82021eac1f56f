"""How a calibration table is measured and plotted. What the proof reads of a table is `grail_core.proof.calibration`."""
