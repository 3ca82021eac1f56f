"""A real subnet through the bittensor SDK: endpoints, the connection, heads that stand, and the `Chain` over them."""
