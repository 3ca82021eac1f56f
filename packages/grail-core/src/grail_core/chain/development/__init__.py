"""A development chain: one SQLite file that all processes of a machine share."""
