"""From media files to decoded pixels and samples, and what is done to them for every family."""
