"""Image mixtures behind one contract."""
