"""Sources: where the bytes of a data set's rows are."""
