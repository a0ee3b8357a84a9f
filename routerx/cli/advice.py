"""What a drill says about the configuration: each lesson in a sentence that names the key to change. Pure."""

import msgspec

from routerx.cli.rehearsal import Order, Scene
from routerx.config.snapshot import Snapshot
from routerx.domain.policy import Policy
from routerx.upstream.drill import WELL

SLOW_S = 10.0
"""A fault that is survived later than this is spoken of."""


BROKEN = frozenset({"cut", "stalled", "malformed"})
"""Faults of streams that have begun."""


class Advice(msgspec.Struct, frozen=True):
    """One lesson."""

    model: str
    text: str


def advise(snapshot: Snapshot, order: Order, scenes: tuple[Scene, ...]) -> tuple[Advice, ...]:
    """Lessons for each model, what costs answers first."""
    name = order.policy if order.policy is not None else snapshot.tenants[order.tenant].policy
    policy = snapshot.policies.get(name, Policy(name=name))
    found: list[Advice] = []
    for model in order.models:
        mine = [scene for scene in scenes if scene.model == model]
        texts = [*_on_losses(snapshot, policy, model, mine), *_on_waits(policy, mine)]
        found += [Advice(model, f"{model}: {text}") for text in texts]
    return tuple(found)


def _on_losses(snapshot: Snapshot, policy: Policy, model: str, scenes: list[Scene]) -> list[str]:
    refused = next((scene for scene in scenes if scene.fault == WELL.name and not scene.good), None)
    if refused is not None:
        return [f"even without a fault the caller gets {refused.saw}; see `routerx explain {model}`"]
    lost = [scene for scene in scenes if not scene.good]
    if not lost:
        return []
    texts = []
    served = _providers(snapshot, (model, *policy.on_failure))
    names = ", ".join(scene.fault for scene in _once(lost))
    if len(served) == 1:
        [(only, endpoints)] = served.items()
        what = f"by {only} alone" if len(endpoints) < 2 else f"by {len(endpoints)} endpoints of {only} alone"
        texts.append(
            f"no fallback: it is served {what}, so {names} cost the answer; add an endpoint of another provider to "
            f"models.{model}.endpoints, or another model to policies.{policy.name}.on_failure"
        )
    elif policy.retry.attempts_max == 1:
        texts.append(f"{names} cost the answer: policies.{policy.name}.retry.attempts is 1, so nothing is tried twice")
    elif not policy.stream.rescue and all(scene.streamed and scene.fault in BROKEN for scene in lost):
        texts.append(f"{names} cost the answer: policies.{policy.name}.stream.rescue is off")
    else:
        texts.append(
            f"{names} cost the answer, although it is served by {', '.join(served) or 'somebody'}; see "
            f"`routerx explain {model}` for what is left out of its plan, and why"
        )
    return texts


def _on_waits(policy: Policy, scenes: list[Scene]) -> list[str]:
    texts = []
    # Where the slow one itself answered in the end, a shorter deadline would only lose the answer.
    slow = [
        scene
        for scene in scenes
        if scene.whole and scene.seconds > SLOW_S and scene.answered_by != scene.attempts[0].endpoint
    ]
    by_key = {
        "first_token": [scene for scene in slow if scene.fault in ("silent", "slow-first-token")],
        "idle": [scene for scene in slow if scene.fault == "stalled"],
    }
    for key, found in by_key.items():
        if found:
            worst = max(found, key=lambda scene: scene.seconds)
            mode = "streamed" if worst.streamed else "buffered"
            texts.append(
                f"{worst.fault} ({mode}) is answered only after {worst.seconds:.0f} s; "
                f"policies.{policy.name}.timeouts.{key} shortens that"
            )
    differing = [scene for scene in scenes if scene.fault == "cut-differing" and not scene.whole]
    if differing and policy.stream.commit != "full":
        texts.append(
            "a stream that breaks is made whole only where another provider repeats what was delivered; "
            f"policies.{policy.name}.stream.commit: full shows none before it is whole"
        )
    return texts


def _once(scenes: list[Scene]) -> list[Scene]:
    """The first scene of each fault."""
    found: dict[str, Scene] = {}
    for scene in scenes:
        found.setdefault(scene.fault, scene)
    return list(found.values())


def _providers(snapshot: Snapshot, models: tuple[str, ...]) -> dict[str, list[str]]:
    """Provider → the endpoints by which it serves any of `models`."""
    found: dict[str, list[str]] = {}
    for name in models:
        model = snapshot.models.get(name) or snapshot.endpoints.get(name)
        for endpoint in model.endpoints if model is not None else ():
            found.setdefault(endpoint.provider, []).append(endpoint.key)
    return found
