"""A small configuration for routing tests: build endpoints, models and a snapshot in a line each."""

import random
from collections.abc import Iterable, Mapping

from routerx.config.snapshot import ServerConfig, Snapshot
from routerx.domain.call import Operation, Peek
from routerx.domain.call import Plan as RoutePlan
from routerx.domain.failure import Failure, FailureKind
from routerx.domain.model import EVERYTHING, Endpoint, Kind, Model
from routerx.domain.policy import Policy
from routerx.domain.pricing import PriceCard
from routerx.domain.tenant import NO_KEYS, Plan, Principal, Tenant
from routerx.domain.wishes import NO_WISHES, Wishes
from routerx.providers.spec import Auth, Credential, MockSettings, Provider
from routerx.routing.plan import make_plan
from routerx.routing.shortlist import Ask
from routerx.routing.state import Measured, RoutingState
from routerx.secrets import Secret

ALL = EVERYTHING
CHEAP = PriceCard(input_pico=1_000, output_pico=2_000)
DEAR = PriceCard(input_pico=10_000, output_pico=20_000)
FREE = PriceCard(input_pico=0, output_pico=0)


def provider(name: str, *, keys: int = 1, rpm: int | None = None, mock: bool = False) -> Provider:
    credentials = tuple(Credential(f"{name}-{number}", None, rpm) for number in range(1, keys + 1))
    return Provider(name, "openai", "http://127.0.0.1", Auth.BEARER, credentials, mock=MockSettings() if mock else None)


def endpoint(path: str, model: str = "m", **fields: object) -> Endpoint:
    name, _, upstream = path.partition("/")
    values = {"price": CHEAP, "capabilities": ALL, **fields}
    return Endpoint(key=path, provider=name, model=model, upstream_model=upstream, **values)


def model(name: str, *endpoints: Endpoint, kind: Kind = Kind.CHAT) -> Model:
    return Model(name, kind, endpoints)


def snapshot(
    models: Iterable[Model],
    providers: Iterable[Provider] = (),
    policy: Policy | None = None,
    *,
    aliases: dict[str, str] | None = None,
    generation: int = 1,
) -> Snapshot:
    named = {each.name: each for each in models}
    endpoints = {
        each.key: Model(each.model, owner.kind, (each,)) for owner in named.values() for each in owner.endpoints
    }
    known = {each.provider: provider(each.provider) for owner in named.values() for each in owner.endpoints}
    known.update({each.name: each for each in providers})
    named.update({alias: named[target] for alias, target in (aliases or {}).items()})
    chosen = policy if policy is not None else Policy("default")
    return Snapshot(generation, ServerConfig(), known, named, endpoints, {chosen.name: chosen}, {}, {}, {})


def tenant(*, allow: tuple[str, ...] = (), policy: str = "default", **plan: object) -> Tenant:
    return Tenant("acme", Plan("standard", **plan), policy=policy, allow=allow)


def chat(name: str = "m", **fields: object) -> Peek:
    return Peek(Operation.CHAT, name, **fields)


def failure(kind: FailureKind, retry_after_s: float | None = None) -> Failure:
    return Failure(kind, "it broke", retry_after_s=retry_after_s)


class World:
    """A snapshot with its routing state and a clock that is moved by hand."""

    def __init__(self, config: Snapshot, who: Tenant | None = None, *, now_s: float = 1_000.0) -> None:
        self.config = config
        self.who = who if who is not None else tenant()
        self.state = RoutingState(random.Random(7))
        self.now_s = now_s

    def plan(
        self,
        peek: Peek | None = None,
        wishes: Wishes = NO_WISHES,
        *,
        own_key: bool = False,
        stored: Mapping[str, Secret | None] = NO_KEYS,
    ) -> RoutePlan:
        asked = peek if peek is not None else chat()
        ask = Ask(asked, Principal(self.who, "key", own_keys=stored), wishes, own_key)
        return make_plan(ask, self.config, self.state, self.now_s)

    def order(self, peek: Peek | None = None, wishes: Wishes = NO_WISHES, *, own_key: bool = False) -> list[str]:
        return [candidate.endpoint.key for candidate in self.plan(peek, wishes, own_key=own_key).candidates]

    def endpoint(self, path: str) -> Endpoint:
        return self.config.endpoints[path].endpoints[0]

    def pick(self, path: str, policy: Policy | None = None) -> str | None:
        found = self.endpoint(path)
        chosen = policy if policy is not None else Policy("default")
        credential = self.state.pick_credential(self.config.providers[found.provider], found, chosen, self.now_s)
        return credential.id if credential is not None else None

    def answer(self, path: str, ttft_s: float | None = 0.1, total_s: float = 1.0) -> None:
        credential_id = self.pick(path)
        assert credential_id is not None
        self.state.succeeded(path, credential_id, Measured(ttft_s, total_s), self.now_s)

    def fail(self, path: str, kind: FailureKind, times: int = 1, retry_after_s: float | None = None) -> None:
        for _ in range(times):
            credential_id = self.pick(path)
            assert credential_id is not None
            self.state.failed(path, credential_id, failure(kind, retry_after_s), Policy("default"), self.now_s)
