"""A Hypothesis state machine: connections, processes and a store under arbitrary interleavings (invariants 1 to 6).

``sight`` looks into a store, ``books`` knows who uses which line, ``ledger`` makes every call of the store and checks
what it changed, ``world`` is what dies with a process, ``machine`` has the rules.
"""
