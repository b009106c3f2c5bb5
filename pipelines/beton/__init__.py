"""FFCV's file format: reading, checking and writing."""
