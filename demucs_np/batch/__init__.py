"""A whole library of tracks: found, separated on one machine or many, written down, and gone on with where a run ended."""
