"""Raw material for trying vlmprep out and for testing it: a drawn corpus and a real processor, with nothing to download."""
