"""The comparison with Heretic 1.4.0: its study, our search, and one judge for both."""
