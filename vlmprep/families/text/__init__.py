"""From a conversation to tokens and labels: templates, turns, control tokens."""
