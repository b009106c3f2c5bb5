"""Speed benchmarks, which share one harness."""
