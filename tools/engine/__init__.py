"""The training engine: builds, trains, saves and logs a run."""
