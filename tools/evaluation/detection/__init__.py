"""Object detection: the data sets, the detector, its training and its score."""
