"""Access to a running RouterX through its admin API, over TCP or a Unix socket, with the standard HTTP client.

Blocking on purpose: a command does one thing, and Ctrl-C must end a read at once.
"""

import http.client
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from routerx.cli.remote_books import RemoteBooks
from routerx.cli.remote_keys import RemoteKeys
from routerx.cli.remote_kit import Page, query_of, segment
from routerx.cli.remote_own_keys import RemoteOwnKeys
from routerx.cli.remote_providers import RemoteProviders
from routerx.control.provider_values import TokenReport
from routerx.control.values import (
    AuditView,
    CreatedTenant,
    LogDetail,
    LogEntry,
    LogLine,
    ModelQuery,
    ModelView,
    NewTenant,
    TenantDetail,
    TenantLimitsChange,
    TenantSummary,
    TransferView,
    VerifyView,
)
from routerx.errors import OperatorError, RouterXError
from routerx.ledger.base import LogQuery

PREFIX = "/admin/v1"
CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 600.0  # A whole ledger is verified within one answer.
SILENCE_MAX_S = 35.0  # Three heartbeats of the log stream.
LINE_BYTES_MAX = 1024 * 1024

T = TypeVar("T")


class Unreachable(OperatorError):
    """No RouterX answers there, or it stopped answering."""

    exit_code = 69  # EX_UNAVAILABLE


class Refused(RouterXError):
    """The server's own error, told as it told it."""


class _Problem(msgspec.Struct):
    message: str
    code: str | None = None
    request_id: str | None = None


class _ProblemBody(msgspec.Struct):
    error: _Problem


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def socket_answers(path: Path) -> bool:
    """True when somebody accepts connections there; a file left by a killed server does not."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(CONNECT_TIMEOUT_S)
            probe.connect(str(path))
    except OSError:
        return False
    return True


class RemoteAccess:
    """An Access over HTTP; one connection per call."""

    def __init__(
        self, connect: Callable[[float], http.client.HTTPConnection], where: str, base: str, admin_key: str | None
    ) -> None:
        self._connect = connect
        self._where = where
        self._base = base
        self._headers = {"Accept": "application/json", "User-Agent": "routerx-cli"}
        if admin_key is not None:
            self._headers["Authorization"] = f"Bearer {admin_key}"

    @classmethod
    def by_socket(cls, path: Path) -> "RemoteAccess":
        return cls(lambda timeout_s: _UnixConnection(path, timeout_s), str(path), "", None)

    @classmethod
    def by_url(cls, url: str, admin_key: str | None) -> "RemoteAccess":
        """Raises OperatorError for what is no http(s) URL or no key."""
        parts = urlsplit(url)
        try:
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if parts.scheme not in ("http", "https") or host is None:
            raise OperatorError(f"--url must be like http://host:8080, not {url!r}.")
        if admin_key is None:
            raise OperatorError("--url needs an admin key; set ROUTERX_ADMIN_KEY or give --admin-key.")
        if not (admin_key.isascii() and admin_key.isprintable()):
            raise OperatorError("The admin key holds characters that no key has; check ROUTERX_ADMIN_KEY.")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection

        def connect(timeout_s: float) -> http.client.HTTPConnection:
            return kind(host, port, timeout=timeout_s)

        return cls(connect, f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", parts.path.rstrip("/"), admin_key)

    # --- the interface

    @property
    def providers(self) -> RemoteProviders:
        return RemoteProviders(self.call)

    @property
    def books(self) -> RemoteBooks:
        return RemoteBooks(self.call)

    def limit_tenant(self, name: str, change: TenantLimitsChange) -> TenantDetail:
        return self.call("PATCH", f"{PREFIX}/tenants/{segment(name)}/limits", change, TenantDetail)

    def history(self, name: str, limit: int) -> tuple[AuditView, ...]:
        return self._get(f"/tenants/{segment(name)}/history" + query_of(limit=str(limit)), Page[AuditView]).data

    @property
    def keys(self) -> RemoteKeys:
        return RemoteKeys(self.call)

    @property
    def own_keys(self) -> RemoteOwnKeys:
        return RemoteOwnKeys(self.call)

    def tenants(self) -> tuple[TenantSummary, ...]:
        return self._get("/tenants", Page[TenantSummary]).data

    def tenant(self, name: str) -> TenantDetail:
        return self._get(f"/tenants/{segment(name)}", TenantDetail)

    def create_tenant(self, new: NewTenant) -> CreatedTenant:
        return self._post("/tenants", new, CreatedTenant)

    def top_up(self, name: str, amount: str, reference: str | None, note: str | None) -> TransferView:
        body = {"amount": amount, "reference": reference, "note": note}
        return self._post(f"/tenants/{segment(name)}/topup", body, TransferView)

    def adjust(self, name: str, amount: str, note: str | None) -> TransferView:
        return self._post(f"/tenants/{segment(name)}/adjust", {"amount": amount, "note": note}, TransferView)

    def suspend(self, name: str, reason: str | None, *, hard: bool) -> TenantDetail:
        return self._post(f"/tenants/{segment(name)}/suspend", {"reason": reason, "hard": hard}, TenantDetail)

    def unsuspend(self, name: str) -> TenantDetail:
        return self._post(f"/tenants/{segment(name)}/unsuspend", {}, TenantDetail)

    def models(self, query: ModelQuery) -> tuple[ModelView, ...]:
        values = query_of(
            provider=query.provider,
            kind=query.kind,
            search=query.search,
            capability=query.capability,
            everywhere="true" if query.everywhere else None,
        )
        return self._get("/models" + values, Page[ModelView]).data

    def model(self, name: str) -> ModelView:
        return self._get(f"/models/{quote(name, safe='/')}", ModelView)

    def logs(self, query: LogQuery) -> tuple[LogEntry, ...]:
        return self._get("/logs" + _log_query(query), Page[LogEntry]).data

    def log(self, request_id: str) -> LogDetail:
        return self._get(f"/logs/{segment(request_id)}", LogDetail)

    def usage(self, period: str, tenant: str | None) -> TokenReport:
        query = query_of(period=period, tenant=tenant)
        return self.call("GET", f"/v1/stats/providers/tokens{query}", None, TokenReport)

    def verify(self) -> VerifyView:
        return self._get("/ledger/verify", VerifyView)

    def follow(self, query: LogQuery) -> Iterator[LogLine]:
        """The log stream, line by line. Raises Unreachable when it breaks off without its end line."""
        connection = self._connect(CONNECT_TIMEOUT_S)
        try:
            response = self._send(connection, "GET", PREFIX + "/logs/stream" + _log_query(query), None, SILENCE_MAX_S)
            while data := response.readline(LINE_BYTES_MAX):
                line = msgspec.json.decode(data, type=LogLine)
                yield line
                if line.end is not None:
                    return
            raise Unreachable(f"{self._where} ended the log stream.")
        except (OSError, http.client.HTTPException, msgspec.DecodeError) as error:
            raise self._unreachable(error) from None
        finally:
            connection.close()

    # --- HTTP

    def _get(self, path: str, shape: type[T]) -> T:
        return self.call("GET", PREFIX + path, None, shape)

    def _post(self, path: str, body: object, shape: type[T]) -> T:
        return self.call("POST", PREFIX + path, body, shape)

    def call(self, method: str, path: str, value: object, shape: type[T]) -> T:
        """One call of any admin route; a `value` of None is no body. Raises Refused and Unreachable."""
        body = None if value is None else msgspec.json.encode(value)
        connection = self._connect(CONNECT_TIMEOUT_S)
        try:
            data = self._send(connection, method, path, body, ANSWER_TIMEOUT_S).read()
            return msgspec.json.decode(data, type=shape)
        except msgspec.DecodeError as error:
            raise Unreachable(f"{self._where} does not answer like this version of RouterX: {error}.") from None
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from None
        finally:
            connection.close()

    def _send(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None, timeout_s: float
    ) -> http.client.HTTPResponse:
        """The response, its body still to be read. Raises Refused for what is not 200."""
        headers = self._headers if body is None else {**self._headers, "Content-Type": "application/json"}
        connection.connect()
        connection.sock.settimeout(timeout_s)
        connection.request(method, self._base + path, body, headers)
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise self._refusal(response.status, response.read(LINE_BYTES_MAX))
        return response

    def _refusal(self, status: int, body: bytes) -> RouterXError:
        try:
            problem = msgspec.json.decode(body, type=_ProblemBody).error
        except msgspec.DecodeError:
            return Unreachable(f"{self._where} answers {status}, and not as a RouterX does.")
        if status == http.client.UNAUTHORIZED:
            return Refused(f"{problem.message} Is it an admin key of {self._where}?")
        if status >= http.client.INTERNAL_SERVER_ERROR and problem.request_id is not None:
            return Refused(f"{problem.message} ({problem.request_id})")
        return Refused(problem.message)

    def _unreachable(self, error: Exception) -> Unreachable:
        reason = str(error) or type(error).__name__
        return Unreachable(f"No answer from RouterX at {self._where}: {reason}.")


def _log_query(query: LogQuery) -> str:
    return query_of(
        tenant=query.tenant,
        model=query.model,
        outcome=query.outcome,
        after=query.after_id,
        limit=str(query.limit),
    )
