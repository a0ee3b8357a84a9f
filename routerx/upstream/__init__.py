"""The way out: one seam (base), two clients behind it (aiohttp, and a lean one of our own), and the mock provider."""
