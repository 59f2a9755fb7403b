"""The stages, each resumable: estimate, plan, pack, verify; and what can be seen of their outputs."""
