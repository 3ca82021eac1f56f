"""`hatch run soak`: hundreds of windows over chain, stores and relays that fail, and what the roles hold afterwards."""
