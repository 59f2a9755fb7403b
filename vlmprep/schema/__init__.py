"""Words, tables and errors that every other part shares; imports nothing of vlmprep."""
