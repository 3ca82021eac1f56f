"""What a role can be watched by: a table of metrics, how they follow from its events, and where they go."""
