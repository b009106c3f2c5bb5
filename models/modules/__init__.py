"""Parts of methods that have parameters or state."""
