"""A run: built, trained, saved, watched."""
