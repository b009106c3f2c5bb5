"""Commands (``tools/*.py``), and packages for configuring, running and evaluating training."""
