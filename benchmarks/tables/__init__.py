"""Recorded learning curves of many settings, so that whole searches can be replayed in seconds."""
