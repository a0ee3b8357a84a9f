"""The aiohttp rim: routes, deadlines, error bodies, admin API, serving."""
