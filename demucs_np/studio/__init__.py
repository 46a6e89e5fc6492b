"""The studio: an HTTP server on this computer that separates tracks and keeps them in a folder."""
