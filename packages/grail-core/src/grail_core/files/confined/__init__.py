"""Opening a stranger's bytes in a process of its own, with limits: `opening` is the parent's side, `child` the other."""
