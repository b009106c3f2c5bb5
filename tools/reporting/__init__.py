"""The report of a run: one page on its settings, progress and results."""
