"""Which endpoint, in which order, and what after a failure. Pure decisions over explicit state."""
