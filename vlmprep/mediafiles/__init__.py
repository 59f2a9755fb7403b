"""Encoded media files: opened so that they open nothing else, their headers read, their frames and samples decoded."""
