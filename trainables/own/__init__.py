"""Code of the user's that trains by itself: any Ray Tune trainable, and any torch optimizer."""
