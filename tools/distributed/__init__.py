"""Processes: start, agree, stop, watch, compare."""
