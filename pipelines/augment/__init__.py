"""Decoded crops to normalized views: random parameters, and three ways to apply them."""
