"""Everything that has parameters or makes a loss."""
