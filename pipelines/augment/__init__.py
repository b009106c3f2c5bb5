"""Decoded crops to normalised views: the draws, and three ways to compute them."""
