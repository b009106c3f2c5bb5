"""The parts of a run that ``train.py`` and ``eval.py`` share."""
