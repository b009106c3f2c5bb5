"""Files, memory and threads."""
