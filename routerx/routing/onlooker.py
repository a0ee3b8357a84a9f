"""What routing has learnt, to look at: a plan made with it takes nobody's turn."""

import random

from routerx.domain.model import Endpoint
from routerx.routing.state import RoutingState


class Onlooker(RoutingState):
    """The state of another one at this moment; for plans that are only told, never for calls.

    Draws come from a copy of the other's source of chance, so the order is the one that the next request would get.
    """

    def __init__(self, live: RoutingState) -> None:
        vars(self).update(vars(live))
        self.rng = random.Random()  # noqa: S311 - a copy of what draws lots.
        self.rng.setstate(live.rng.getstate())

    def explore(self, endpoint: Endpoint, now_s: float) -> bool:
        return False

    def turn(self, model: str, *, takes: bool) -> int:
        return super().turn(model, takes=False)
