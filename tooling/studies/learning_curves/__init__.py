"""Learning curves in one process each: `curve` is one run, `runs` many of them side by side, `page` their figures."""
