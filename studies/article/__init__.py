"""The experiment of a 2018 article, run again with and without its defects.

The author of the article asked his readers why two of his four ideas failed.

``defects`` names the proved defects. ``backward``, ``rules`` and ``schedule`` implement them. ``cases`` is the table of
the cases, and ``runs`` trains one run. ``summary`` and ``figures`` show the results. See
``python -m studies.article --help``.
"""
