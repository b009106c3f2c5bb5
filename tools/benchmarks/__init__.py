"""Comparisons of speed: one harness, many contenders."""
