"""The page that a run leaves: one file that says what was trained, how far, and how well."""
