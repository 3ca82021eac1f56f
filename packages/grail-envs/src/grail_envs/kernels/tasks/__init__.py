"""Tasks of our own in KernelBench's form, from element-wise to attention: small enough for Triton's interpreter."""

from grail_envs.kernels.tasks import elementwise, products, reductions
from grail_envs.kernels.tasks.form import OwnTask

OWN_TASKS: dict[str, OwnTask] = {task.name: task for task in (*elementwise.TASKS, *reductions.TASKS, *products.TASKS)}
"""By their names, in a fixed order."""

__all__ = ["OWN_TASKS", "OwnTask"]
