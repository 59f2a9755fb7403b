"""Verifying a pack set: is it what was written, and does what was written keep the format's promises.

run.py      the whole: files, shards in parallel, what must agree between them
files.py    sizes and digests of the files beside the shards
account.py  samples.parquet: every source row exactly once
shard.py    one shard: digests, layout, every pack
origin.py   settings.json against manifest and receipts
receipt.py  its receipt against manifest and index
members.py  tar headers
tensors.py  the invariants of a pack's tensors
media.py    placeholders, grids, patches
asked.py    what is asked for with --against
against.py  then: documents found in the ledger
rebuild.py  and made anew from their sources
compare.py  bit for bit
problem.py  what is found
"""

from __future__ import annotations

from vlmprep.pipeline.verify.asked import Against
from vlmprep.pipeline.verify.problem import Problem
from vlmprep.pipeline.verify.run import Verification, verify

__all__ = ["Against", "Problem", "Verification", "verify"]
