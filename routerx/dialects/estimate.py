"""How many tokens a prompt has, before anybody has counted them: what holds, limits and context checks go by."""

from routerx.jsonx import Raw

# The estimate of a prompt: an upper one for the texts people send, so that a hold rarely falls short, yet not the worst
# case of one token per byte, which would lock up money. English runs at 4 bytes a token, code and JSON at 2.5 to 3.
# Outside ASCII a character has 2 to 4 bytes and rarely makes more than 2 tokens.
_ASCII_BYTES_PER_TOKEN = 2
_OTHER_BYTES_PER_TWO_TOKENS = 3
TOKENS_PER_MESSAGE = 8
"""Role, separators and the priming of the answer; the keys around the text are counted as text, too."""
TOKENS_PER_REQUEST = 64
"""Some models are prompted by their servers first."""
TOKENS_PER_TOOLS = 640
"""Providers put a prompt of their own around tools: 300 to 600 tokens seen."""
TOKENS_PER_IMAGE = 1_600
"""The most a large picture costs on most models; its data or address is not counted as text."""
TOKENS_PER_FILE = 2_000
FILE_BYTES_PER_TOKEN = 16
TOKENS_PER_AUDIO = 256
AUDIO_BYTES_PER_TOKEN = 256
"""Of base64: speech at 32 kbit/s and 20 tokens a second, near the densest in use."""

_ASCII = bytes(range(128))


def raw_tokens(raw: Raw) -> int:
    """Tokens of JSON text, its quotes and keys included."""
    data = bytes(raw)
    other = 0 if data.isascii() else len(data.translate(None, _ASCII))
    return text_tokens(len(data) - other, other)


def text_tokens(ascii_bytes: int, other_bytes: int) -> int:
    return ascii_bytes // _ASCII_BYTES_PER_TOKEN + 1 + other_bytes * 2 // _OTHER_BYTES_PER_TWO_TOKENS
