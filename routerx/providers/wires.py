"""Which wire format a provider is spoken to in."""

from routerx.dialects.openai_chat import OPENAI
from routerx.dialects.registry import dialect
from routerx.domain.call import Operation
from routerx.providers.spec import Provider, Wire

_CHATS = (Operation.CHAT, Operation.COUNT_TOKENS)


def wire_of(provider: Provider, operation: Operation, caller: str) -> Wire:
    """The caller's own dialect where the provider speaks it, because then bytes pass; else the provider's first.

    `caller` is the name of a dialect.
    """
    if provider.mock is not None:
        return Wire(OPENAI.name)  # What stands in for it speaks nothing else.
    if operation in _CHATS:
        if caller != provider.dialect:
            for wire in provider.also:
                if wire.dialect == caller:
                    return wire
        return Wire(provider.dialect)
    if operation is Operation.EMBEDDINGS:
        own = dialect(provider.dialect).embedding_target is not None
        return Wire(provider.dialect if own else OPENAI.name)
    return Wire(OPENAI.name, provider.relay_path)
