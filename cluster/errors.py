"""What a user of this package can cause."""


class ClusterError(Exception):
    """Ray cannot be started, reached or asked for what was wanted; the message is one clear line."""
