"""The report of a run: one page on what was trained, how far, and how well."""
