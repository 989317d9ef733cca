"""The 2018 article whose author asked why two of four ideas failed: its experiment again, with and without its defects.

``defects`` names what was proved to be wrong; ``backward``, ``rules`` and ``schedule`` do it again; ``cases`` is the
table; ``runs`` trains one row; ``figures`` draws what came of it. ``python -m studies.article --help``.
"""
