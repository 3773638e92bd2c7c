"""What every room stands on: errors, paths, cached folders, plots, tables."""
