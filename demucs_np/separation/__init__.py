"""From a track to its stems: chunks and cross-fades, normalisation, the files that are written."""
