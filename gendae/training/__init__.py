"""`gendae fit`: run folders, callbacks, interrupted runs, and updates recorded as CUDA graphs."""
