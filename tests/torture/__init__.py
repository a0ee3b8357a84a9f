"""The slow proofs: kill -9, reloads, SIGTERM and overspending against the real process. Run by scripts/torture.

A driver (raw sockets) and a scripted provider (a process of its own) each keep a journal of what they saw. A checker
compares both with the ledger file. What a request must cost is computed from its number alone, never by the gateway.
"""
