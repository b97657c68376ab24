"""Pure functions, which know nothing of parameters or data objects."""
