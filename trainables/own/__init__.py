"""Training with the user's own parts: an optimizer class of any package, or a whole trainable."""
