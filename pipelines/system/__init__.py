"""Files, memory, threads: what is not about images."""
