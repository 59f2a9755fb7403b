"""Media and rows broken at random, through the real stages.

seeds.py      whole media of every kind
bombs.py      small files that claim, or unpack to, much
mutations.py  what is done to a file's bytes
rows.py       what is done to a row
corpus.py     numbered items to a source with its media
truth.py      what the model's own processor makes of a row
batch.py      one source through estimate, plan, pack and verify, every document held against the processor's own
watch.py      batches in processes that may die, hang or swell, and which item is to blame
"""
