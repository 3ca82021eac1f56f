"""The report of a local run: facts collected from its folder, summary, charts, page."""
