"""The pack set's format, as bytes and arrays: what its writer and its readers share. docs/format.md specifies it.

manifest.py       the set: counts, digests, settings
shardrecords.py   what it says of its shards
index.py          packs.arrow: where each pack lies and what it holds
tarpack.py        one pack's bytes to its tar members and back
packinfo.py       key.json: what a pack says about itself
members.py        one tensor to its tar member and back
pack.py           one pack's tensors to members and back
"""
