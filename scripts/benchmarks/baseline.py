"""The yardstick: a bare aiohttp pass-through proxy. No auth, no routing, no metering, nothing durable.

Usage: baseline.py UPSTREAM_URL. Prints its port, then serves until it is ended.
"""

import asyncio
import sys

import aiohttp
import uvloop
from aiohttp import web

UPSTREAM: web.AppKey[str] = web.AppKey("upstream", str)
SESSION: web.AppKey[aiohttp.ClientSession] = web.AppKey("session", aiohttp.ClientSession)


async def relay(request: web.Request) -> web.StreamResponse:
    body = await request.read()
    url = request.app[UPSTREAM] + request.path
    headers = {"Content-Type": "application/json", "Authorization": "Bearer upstream-key"}
    async with request.app[SESSION].post(url, data=body, headers=headers) as reply:
        if reply.content_type != "text/event-stream":
            return web.Response(body=await reply.read(), content_type=reply.content_type, status=reply.status)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        async for data in reply.content.iter_any():
            await response.write(data)
        await response.write_eof()
        return response


async def main() -> None:
    app = web.Application(client_max_size=32 * 1024 * 1024)
    app[UPSTREAM] = sys.argv[1]
    app[SESSION] = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout()
    )
    app.router.add_post("/v1/chat/completions", relay)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    sys.stdout.write(f"{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
