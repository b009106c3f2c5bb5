"""Checks of the installation; standard library only, so that they run before it is complete."""
