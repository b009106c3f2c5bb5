"""Image mixtures under one contract."""
