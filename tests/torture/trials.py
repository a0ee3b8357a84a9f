"""Where gateways are killed or fail (failing.py), and what makes them come by."""

from typing import NamedTuple

from tests.torture import faulty
from tests.torture.failpoints import Action

FREQUENT, SMALL, PAST = (
    plant.__name__ for plant in (faulty.frequent_checkpoints, faulty.small_steps, faulty.two_days_ago)
)


class Trial(NamedTuple):
    """One place, and what makes a gateway come by."""

    place: str
    hits_max: int = 1
    """A kill comes at a random one of so many times."""
    by: str = "load"
    """See DRIVES of failing.py."""
    action: Action = Action.KILL
    faults: tuple[str, ...] = ()
    interrupted: bool = False
    """Whether a plain kill goes before each: what it comes by are the remains of another."""

    @property
    def name(self) -> str:
        return self.place if self.action is Action.KILL else f"{self.place}, {self.action}"


TRIALS = (
    Trial("before_hold", 60),
    Trial("after_hold", 60),
    Trial("before_dispatch", 60),
    Trial("after_headers", 50),
    Trial("after_first_delta", 80),
    Trial("before_settle", 40),
    Trial("after_settle", 40),
    Trial("inside_batch", 8),
    Trial("before_commit", 10),
    Trial("before_commit", 10, action=Action.MEANWHILE),
    Trial("after_commit", 10),
    Trial("before_acknowledge", 10),
    Trial("before_terminal_event", 12),
    Trial("after_terminal_event", 12),
    Trial("before_whole_answer", 20),
    Trial("after_top_up", 2),
    Trial("before_checkpoint", 3, faults=(FREQUENT,)),
    Trial("before_checkpoint", 3, action=Action.MEANWHILE, faults=(FREQUENT,)),
    Trial("after_checkpoint", 3, faults=(FREQUENT,)),
    Trial("start", 60, by="start"),
    Trial("start", 160, by="first start"),
    Trial("before_swap", by="reload"),
    Trial("after_swap", by="reload"),
    Trial("before_side_file", 30, by="keyed"),
    Trial("after_side_file", 30, by="keyed"),
    Trial("after_claim", 40, by="keyed"),
    Trial("after_retake", 3, by="keyed", interrupted=True),
    Trial("before_drop", 4, by="keyed"),
    Trial("after_key", 4, by="keys"),
    Trial("after_own_key", 4, by="own keys"),
    Trial("inside_vault_key", 2, by="first own key"),
    Trial("inside_watermark", by="prune", faults=(SMALL,)),
    Trial("inside_pruning", 3, by="prune", faults=(SMALL,)),
    Trial("inside_backup", by="backup"),
    Trial("after_backup", by="backup"),
)
"""The places of the plan that are here, each by its name, and more. There is neither an outbox nor a queue of jobs."""


class Mishap(NamedTuple):
    """An error at a place, so many times in a row; the gateway has to live on."""

    place: str
    action: Action
    times: int
    felt: tuple[str, ...] = ()
    """How callers may hear of it; with none, nobody may."""
    by: str = "load"


REFUSED = ("refused storage_unavailable", "broke_off storage_unavailable")
UPSTREAM = ("refused upstream_error", "refused upstream_protocol_error", "refused upstream_disconnected")
"""What goes wrong between us and a provider is told as the provider's."""

MISHAPS = (
    Mishap("before_commit", Action.FULL, 6, REFUSED),
    Mishap("before_commit", Action.IO, 6, REFUSED),
    Mishap("before_commit", Action.IO, 1),
    Mishap("inside_batch", Action.FULL, 6, REFUSED),
    Mishap("after_commit", Action.IO, 1),
    Mishap("before_checkpoint", Action.IO, 3),
    Mishap("before_hold", Action.RAISE, 5, ("refused internal_error",)),
    Mishap("before_dispatch", Action.RAISE, 5, UPSTREAM),
    Mishap("after_headers", Action.RAISE, 5, UPSTREAM),
    Mishap("after_first_delta", Action.RAISE, 5, ("cut", "broke_off internal_error")),
    Mishap("at_settle", Action.RAISE, 5, ("cut", "refused internal_error", "broke_off internal_error")),
    Mishap("before_whole_answer", Action.RAISE, 5, ("cut", "refused internal_error")),
    Mishap("before_side_file", Action.FULL, 40, ("refused storage_unavailable",), "keyed"),
    Mishap("before_commit", Action.FULL, 6, REFUSED, "keyed"),
)
