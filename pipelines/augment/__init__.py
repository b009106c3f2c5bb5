"""Augmentation: random parameters, and three implementations that apply them to crops."""
