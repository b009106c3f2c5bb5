"""Tensors in, accuracy out."""
