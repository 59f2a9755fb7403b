"""One ledger row per source row: exact counts, or the reason for refusing it."""
