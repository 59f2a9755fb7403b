"""Tests; the tree mirrors `vlmprep/`, and what several of them need is in `conftest.py`."""
