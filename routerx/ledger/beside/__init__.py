"""Files beside the ledger that no money hangs on: the request log, idempotency keys and the answers kept for them."""
