"""A cluster from afar: submit a job, receive it, watch over it, diagnose the cluster.

It may import ``search`` and ``tracking``, and what these may; not ``verdict`` and ``execution``.
"""
