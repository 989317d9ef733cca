"""A job's report: what was found, as data, as pictures on one page, and as Markdown."""
