"""Ten endpoints whose latency, price and health change with time. Everything comes from the seed."""

import math
import random
from dataclasses import dataclass, field

from routerx.config.snapshot import ServerConfig, Snapshot
from routerx.domain.model import EVERYTHING, Endpoint, Kind, Model
from routerx.domain.policy import Policy, Sort
from routerx.domain.pricing import PriceCard
from routerx.providers.spec import Auth, Credential, Provider

ENDPOINTS = 10
RATE = 50.0
"""Requests a second, where nobody says otherwise."""
OUTPUT_TOKENS = 200
MODEL = "m"


@dataclass(frozen=True)
class Outage:
    begin_s: float
    end_s: float

    def holds(self, at_s: float) -> bool:
        return self.begin_s <= at_s < self.end_s


@dataclass
class Site:
    """One endpoint."""

    name: str
    price_pico: int
    base_s: float
    """Its ordinary time to the first token."""
    swing: float
    """How far that goes up and down, as a share …"""
    period_s: float
    """… within so long."""
    phase: float
    rate: float
    """Output tokens a second."""
    outages: list[Outage] = field(default_factory=list)

    @property
    def key(self) -> str:
        return f"{self.name}/{MODEL}"

    def is_down(self, at_s: float) -> bool:
        return any(outage.holds(at_s) for outage in self.outages)

    def ttft_s(self, at_s: float, rng: random.Random) -> float:
        tide = 1.0 + self.swing * math.sin(2 * math.pi * at_s / self.period_s + self.phase)
        return self.base_s * tide * rng.lognormvariate(0.0, 0.25)


@dataclass(frozen=True)
class World:
    """All of them, how long it lasts, and when all are down at once."""

    sites: tuple[Site, ...]
    length_s: float
    rate: float
    """Requests a second."""
    blackout: Outage

    def snapshot(self, sort: Sort) -> Snapshot:
        endpoints = tuple(
            Endpoint(
                key=site.key,
                provider=site.name,
                model=MODEL,
                upstream_model=MODEL,
                price=PriceCard(site.price_pico, 4 * site.price_pico),
                capabilities=EVERYTHING,
            )
            for site in self.sites
        )
        providers = {
            site.name: Provider(
                site.name, "openai", "http://127.0.0.1", Auth.BEARER, (Credential(f"{site.name}-1", None),)
            )
            for site in self.sites
        }
        model = Model(MODEL, Kind.CHAT, endpoints)
        paths = {one.key: Model(MODEL, Kind.CHAT, (one,)) for one in endpoints}
        policies = {"default": Policy("default", sort=sort)}
        return Snapshot(1, ServerConfig(), providers, {MODEL: model}, paths, policies, {}, {}, {})


def build(seed: int, requests: int, rate: float = RATE) -> World:
    rng = random.Random(seed)
    length_s = requests / rate
    sites = []
    for n in range(ENDPOINTS):
        site = Site(
            name=f"p{n}",
            price_pico=rng.randrange(100_000, 3_000_000),
            base_s=rng.uniform(0.15, 2.0),
            swing=rng.uniform(0.1, 0.6),
            period_s=rng.uniform(0.2, 0.8) * length_s,
            phase=rng.uniform(0.0, 2 * math.pi),
            rate=rng.uniform(20.0, 150.0),
        )
        for _ in range(rng.randrange(3)):
            begin_s = rng.uniform(0.05, 0.9) * length_s
            site.outages.append(Outage(begin_s, begin_s + rng.uniform(0.02, 0.08) * length_s))
        sites.append(site)
    blackout = Outage(0.5 * length_s, 0.53 * length_s)
    for site in sites:
        site.outages.append(blackout)
    return World(tuple(sites), length_s, rate, blackout)
