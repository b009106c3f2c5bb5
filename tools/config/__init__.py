"""Settings: flags, YAML, defaults, what fits."""
