"""What a training job imports: open a pack set, get one rank's batches, save and load a few bytes of state.

store.py     files of a local folder or an fsspec URL
packset.py   `open`: packs by number, digests checked; packs.py: what a Loader asks of these or of others
blend.py     `blend`: several pack sets as one
order.py     which packs a step consumes: epochs.py asks it, for what listing.py lists of catalogue.py, from place.py on
loader.py    `Loader`: one rank's batches, with resume; sampler.py: its steps and their state
steps.py     one rank's share of a step: read, collated, finished; ahead.py: on a GPU, while the model works
collate.py   packs to one batch, with joined.py, masks.py, places.py and rows.py
forms.py     what a family's forward takes; offers.py: what no collate can give it
pixels.py    stored uint8 to the processor's floats
microbatches.py  media under pipeline parallelism
"""

from __future__ import annotations

from vlmprep.runtime import pixels
from vlmprep.runtime.batch import Batch
from vlmprep.runtime.blend import Blend, blend
from vlmprep.runtime.loader import Loader
from vlmprep.runtime.packset import PackSet, open  # noqa: A004 - vlmprep.open is the contract

__all__ = ["Batch", "Blend", "Loader", "PackSet", "blend", "open", "pixels"]
