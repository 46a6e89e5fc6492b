"""Looking into a model: its outline, its activations, its times, and pictures of them."""
