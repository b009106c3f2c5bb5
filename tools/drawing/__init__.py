"""The figures of the papers, each drawn from the folders of runs."""
