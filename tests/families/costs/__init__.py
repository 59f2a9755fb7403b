"""Predicted work against what torch counts."""
