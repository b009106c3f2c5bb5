"""FFCV's file format: read, checked, written."""
