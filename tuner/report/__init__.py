"""The report as a page, Markdown and JSON. Only this package imports plotly.

It may import ``export`` and ``monitor``, and what these may.
"""
