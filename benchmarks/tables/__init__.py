"""Recorded learning curves of many settings. With them, whole searches can be replayed in seconds."""
