"""From files to arrays: one module for each kind of file."""
