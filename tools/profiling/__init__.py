"""Profiling: stages, rates and the bottleneck of a run."""
