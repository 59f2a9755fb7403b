"""Committed shards: tar files, their receipts, and what other readers need beside them."""
