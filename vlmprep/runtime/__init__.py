"""What a training job imports: open a pack set, get one rank's batches, save and load a few bytes of state.

packset.py   `open`: packs by number, digests checked; encoded.py: where they hold original files, those decoded
store.py     files of a local folder; remote.py: of an fsspec URL, read ahead and cached
blend.py     `blend`: several pack sets as one
packs.py     what a Loader asks of a pack set, of a blend, or of packs that are made when they are asked for
order.py     which packs a step consumes: epochs.py asks it, for what listing.py lists of catalogue.py, from place.py on
loader.py    `Loader`: one rank's batches, with resume; arguments.py: what it is given, checked
sampler.py   a rank's steps and their state; dealing.py: its share of them
threads.py   steps read ahead of the loop, or in processes: workers.py
steps.py     one rank's share of a step: read, collated, finished; ahead.py: on a GPU, while the model works
collate.py   packs to one batch, with joined.py, masks.py, positions.py and rows.py
forms.py     what a family's forward takes; offers.py: what no collate can give it
pixels.py    stored uint8 to the processor's floats, with clips.py and overviews.py
microbatches.py  media under pipeline parallelism
"""

from __future__ import annotations

from vlmprep.runtime import pixels
from vlmprep.runtime.batch import Batch
from vlmprep.runtime.blend import Blend, blend
from vlmprep.runtime.loader import Loader
from vlmprep.runtime.packset import PackSet, open  # noqa: A004 - vlmprep.open is the contract

__all__ = ["Batch", "Blend", "Loader", "PackSet", "blend", "open", "pixels"]
