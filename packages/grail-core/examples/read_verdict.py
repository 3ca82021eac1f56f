"""What did this validator say of a window?  python read_verdict.py VALIDATOR WINDOW"""

import sys

from grail_core import api

if len(sys.argv) != 3:
    sys.exit(__doc__)
try:
    validator, window = api.hotkey(sys.argv[1]), int(sys.argv[2])
    network = api.open_network()
    verdict = api.read_verdict(network.bucket(validator), window, validator=validator, network_id=network.network_id)
    if verdict is None:
        sys.exit(f"no verdict of window {window} yet")
    print(f"window {window}: {verdict.body.status.value}")
    for miner in verdict.body.miners:
        weight = verdict.body.weights.get(miner.uid, 0)
        print(
            f"  {api.address(miner.hotkey)}  {miner.status.value}  {miner.unique_valid} valid  weight {weight}  {miner.reason}"
        )
except api.GrailError as error:
    sys.exit(f"error: {error}")
