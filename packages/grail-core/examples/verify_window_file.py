"""Has this miner signed these rollouts?  python verify_window_file.py MINER WINDOW

The network is the one that GRAIL_NETWORK, BT_* and GRAIL_STORAGE_ROOT or R2_* name, as for every command.
"""

import sys

from grail_core import api

if len(sys.argv) != 3:
    sys.exit(__doc__)
try:
    miner, window = api.hotkey(sys.argv[1]), int(sys.argv[2])
    network = api.open_network()
    data = api.fetch_window_file(network.bucket(miner), window, miner)
    file = api.verify_window_file(data, network_id=network.network_id, miner=miner, window=window)
    rewards = [rollout.reward for rollout in file.rollouts]
    print(f"{file.header.groups} groups, {len(file.rollouts)} rollouts, mean claimed reward {sum(rewards) / len(rewards):.3f}")
    print(f"content digest {file.content_digest.hex()}")
except api.GrailError as error:
    sys.exit(f"error: {error}")
