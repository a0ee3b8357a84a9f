"""Wishes about drawing tokens that some models do not take, whatever their wire says."""

import msgspec

from routerx.dialects.base import Aim
from routerx.domain.chat import Sampling
from routerx.domain.model import Capability


def takeable(sampling: Sampling, aim: Aim, dropped: set[str]) -> Sampling:
    """What the endpoint takes of it. What is left out and is not the default anyway is added to `dropped`."""
    if Capability.FIXED_SAMPLING not in aim.capabilities:
        return sampling
    lost = {
        "temperature": sampling.temperature not in (None, 1),
        "top_p": sampling.top_p not in (None, 1),
        "top_k": sampling.top_k is not None,
    }
    dropped.update(name for name, is_lost in lost.items() if is_lost)
    return msgspec.structs.replace(sampling, temperature=None, top_p=None, top_k=None)
