"""Checks of the installation, which run before it is complete; of a data set; of the cache."""
