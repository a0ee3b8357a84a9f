"""The limits that both ways to a real provider keep (FAULTS.md: client defaults that matter)."""

LINE_BYTES_MAX = 8190
HEADERS_MAX = 128
"""Of a response: its status line, each header field, and how many of them (FAULTS.md 19)."""
HEAD_BYTES_MAX = 1024 * 1024
"""All that may arrive before the final response's headers are complete: a flood of 1xx replies ends here. It is far
above any honest head because a body that follows in the same reads may count until the call resumes."""
READ_BUFFER_BYTES = 64 * 1024
"""Reading from a provider stops while twice this is unread: a slow caller slows the provider down."""
PIECE_BYTES = 256 * 1024
"""A longer request body is written in pieces of this size, each waiting for the socket."""
KEEPALIVE_S = 55.0
"""Idle connections are kept this long. Providers that close sooner cost one silent resend."""
CACHED_MAX = 1024
"""Parsed URLs and timeouts kept per transport; beyond this they are forgotten and parsed again."""
DNS_SHARE = 0.8
"""Of the connect deadline, what a resolver may use: so that a slow one is told from a slow host."""
