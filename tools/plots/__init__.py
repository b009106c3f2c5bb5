"""Data in, picture out."""
