"""The network's model as a Transformers folder.  python read_checkpoint.py FOLDER [WINDOW]

Needs grail-core[model]. Afterwards: transformers.AutoModelForCausalLM.from_pretrained(FOLDER)
"""

import sys
from pathlib import Path

from grail_core import api

if len(sys.argv) not in (2, 3):
    sys.exit(__doc__)
try:
    network = api.open_network()
    window = int(sys.argv[2]) if len(sys.argv) > 2 else None
    checkpoint = api.read_checkpoint(network, Path(sys.argv[1]), window=window)
    manifest = checkpoint.manifest
    print(f"checkpoint {manifest.sequence}, valid from window {manifest.valid_from}, weights {manifest.weights_root.hex()}")
except api.GrailError as error:
    sys.exit(f"error: {error}")
