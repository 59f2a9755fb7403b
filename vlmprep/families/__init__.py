"""What each model family's own processor makes of a conversation: counts, tokens, labels, pixels, positions."""
