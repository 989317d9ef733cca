"""Jobs on a remote cluster: submit a job, receive it on the head, resume it if its driver dies, diagnose the cluster.

It may import ``search`` and ``tracking``, and what these may; not ``verdict`` and ``execution``.
"""
