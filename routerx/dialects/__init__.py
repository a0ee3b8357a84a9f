"""Wire formats, pure: bytes to values and back. No sockets, no clock, no await, no vendor names.

One package each, with the same rooms: `peek` (what the gateway reads of a caller's request), `request` (it as the
canonical one), `target` (that as a provider gets it), `answer` (whole answers), `stream` (events), `usage` and
`errors`; `__init__` puts them together as the Dialect. What all share lies beside the packages: protocols in base, the
tap of translated streams, frames (sse, lines), errors by table (classify), callers' values (reading, fields, media).
"""
