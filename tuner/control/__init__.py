"""Starts, changes, reads and deletes jobs. The command line and Python call the same functions of this package."""
