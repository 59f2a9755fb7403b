"""Folders on object stores, as fsspec knows them: read with a cache, published whole, held by one run at a time."""
