"""Wire formats, pure: bytes to values and back. No sockets, no clock, no await, no vendor names."""
