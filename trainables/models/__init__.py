"""The models that trials train."""
