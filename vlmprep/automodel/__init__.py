"""NeMo Automodel's `datasets.vlm` pages as thin names over vlmprep's own parts: a user changes the import and nothing else.

fake_image    a white image for batches without media, and the masks that hide it
collate_fns   examples of conversations to a batch, by processor
pp_media      media of a batch under pipeline parallelism
datasets      examples from meta files and public data sets, and wrappers that tokenize them
neat_packing_vlm  packs of examples, planned from exact counts and made on demand
pp_media      media beside the schedule of a pipeline

What stands behind the names, one file each:

examples.py       examples to conversations, checked; conversations.py: their texts, media, what the chat template sees of them
given.py          media as examples give them
media.py          media as processors take them: clips through PyAV, sounds at the processor's rate
labels.py         labels by construction on a batch's tokens
markers.py        the reference's small searches in token ids
batches.py        one call of the processor, padding, the shift, counts of media
lengths.py        exact lengths, and dropping what is too long
retries.py        another batch where one fails
pp_chunks.py      whose rows the media of a batch are, layout by layout
meta.py           the data sets of a meta file, with rank_rows.py, sharegpt.py, statistics.py and summary.py; hub.py: public ones
samples.py        an example as the sample that families read; documents.py: as a document or as its processor gives it
planned.py        examples counted and planned by the pipeline's own code; knapsack.py: what becomes of the plan
lazy.py           packs on demand in the stored form; packed.py: in the reference's; joined.py: of samples tokenized elsewhere
failures.py       what becomes of samples that fail; tokenized.py: wrappers that ask it
estimates.py      the reference's guesses of lengths
kimi.py, nemotron_parse.py, phi4.py, gemma4.py, pretokenized.py: what is one model's own
"""
