"""Raw conversations: which files, which rows, what they say, where their media lie."""
