"""Files as numbers: one reader for each family of formats."""
