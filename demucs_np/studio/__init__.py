"""The studio: an HTTP server on this computer that separates tracks, keeps them in a folder, and shows a page to hear them."""
