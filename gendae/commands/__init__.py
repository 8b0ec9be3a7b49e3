"""The commands of `gendae`, one function each, which returns the lines that are printed."""
