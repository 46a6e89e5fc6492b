"""The bundled demonstration: a synthesised song, a small model trained on such songs, and what separation makes of it."""
