"""Samples to documents to the tensors of a pack."""
