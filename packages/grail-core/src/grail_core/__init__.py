"""Protocol, proof, verification, chain, storage, beacon and checkpoints of GRAIL."""

from grail_core.kernel_caches import bound_kernel_caches

__version__ = "0.1.0"

bound_kernel_caches()  # before anybody imports PyTorch
