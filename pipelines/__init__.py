"""Everything that happens to pixels before the network."""
