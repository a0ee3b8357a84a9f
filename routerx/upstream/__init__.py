"""The way out: one seam (base), the aiohttp client, and the built-in mock provider behind the same seam."""
