"""The operations of the OpenAI wire beside chat and embeddings: what is read of them to route, judge and meter.

They are relayed to providers that have them, never translated: bytes pass in both directions.
"""

from routerx.domain.call import Operation

RELAYED = frozenset(
    {
        Operation.COMPLETIONS,
        Operation.IMAGES,
        Operation.SPEECH,
        Operation.TRANSCRIPTIONS,
        Operation.MODERATIONS,
        Operation.RERANK,
    }
)
