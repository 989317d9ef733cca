"""The figures of the report, drawn with Plotly.

It may import what ``tuner.report`` may import.
"""
