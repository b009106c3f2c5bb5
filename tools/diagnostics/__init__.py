"""What is installed: standard library only, so that it runs before anything is."""
