"""Export formats: a module for each tool, which writes, loads and verifies its files."""
