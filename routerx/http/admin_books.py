"""Routes of the admin API for books that are written already. docs/admin-api.md lists them."""

from aiohttp import web

from routerx.control.book_values import NewBackup, NewPruning, NewRefund, NewRerating
from routerx.control.books import BookOperations
from routerx.http.admin_kit import Answer, Authorize, guarded, read_body


def book_routes(books: BookOperations, authorize: Authorize) -> list[web.RouteDef]:
    """All routes; see admin_routes()."""

    async def refund(request: web.Request, actor: str) -> object:
        return await books.refund(request.match_info["tenant"], await read_body(request, NewRefund), actor=actor)

    async def rerate(request: web.Request, actor: str) -> object:
        return await books.rerate(await read_body(request, NewRerating), actor=actor)

    async def back_up(request: web.Request, actor: str) -> object:
        return await books.back_up(await read_body(request, NewBackup))

    async def prune(request: web.Request, actor: str) -> object:
        return await books.prune(await read_body(request, NewPruning), actor=actor)

    table: tuple[tuple[str, Answer], ...] = (
        ("/admin/v1/tenants/{tenant}/refund", refund),
        ("/admin/v1/ledger/rerate", rerate),
        ("/admin/v1/ledger/backup", back_up),
        ("/admin/v1/ledger/prune", prune),
    )
    return [web.post(path, guarded(books.clock, authorize, answer)) for path, answer in table]
