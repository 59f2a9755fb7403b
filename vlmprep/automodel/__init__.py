"""NeMo Automodel's `datasets.vlm` pages as thin names over vlmprep's own parts: a user changes the import and nothing else.

fake_image    a white image for batches without media, and the masks that hide it
collate_fns   examples of conversations to a batch, by processor

What stands behind the names, one file each:

conversations.py  an example's conversation: texts, media, what the chat template sees of it
media.py          media as processors take them: clips through PyAV, sounds at the processor's rate
labels.py         labels by construction on a batch's tokens
markers.py        the reference's small searches in token ids
batches.py        one call of the processor, padding, the shift, counts of media
lengths.py        exact lengths, and dropping what is too long
retries.py        another batch where one fails
kimi.py, nemotron_parse.py, phi4.py, gemma4.py, pretokenized.py: what is one model's own
"""
