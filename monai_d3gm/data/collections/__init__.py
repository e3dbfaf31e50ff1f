"""Known collections of data: their names and splits, and samples that ship with the package."""
