"""Accuracy of features and labels, given as tensors."""
