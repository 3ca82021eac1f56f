"""The network's model as a Transformers folder.  python read_checkpoint.py FOLDER [WINDOW]

Needs grail-core[model]. Afterwards: transformers.AutoModelForCausalLM.from_pretrained(FOLDER)
"""

import sys
from pathlib import Path

from grail_core import api

network = api.open_network()
window = int(sys.argv[2]) if len(sys.argv) > 2 else None
checkpoint = api.read_checkpoint(network, Path(sys.argv[1]), window=window)
manifest = checkpoint.manifest
print(f"checkpoint {manifest.sequence}, valid from window {manifest.valid_from}, weights {manifest.weights_root.hex()}")
