"""What one GPU machine tells of the proof, in one command: honest drift, what deviations look like, what it costs.

    hatch run gpu-study                           the whole study on one GPU, in under eight minutes and without network
    hatch run gpu-study --tiny --device cpu       the same steps on a model of two layers, in seconds

Models are random weights of real shapes, made on the device (`random_models`). Each section has its share of the time and is
reported as failed or as out of time without ending the run. What the core measures is asked for in `measuring` alone. Nothing
here makes a calibration table: the figures say whether one made elsewhere holds on this device.
"""
