"""Raw material to try vlmprep out and to test it with: a drawn corpus and a real processor, nothing to download."""
