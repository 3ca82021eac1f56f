"""What one receipt shows: the table of honest extremes that ships, and how often each deviation is found by one receipt."""
