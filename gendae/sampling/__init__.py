"""Sampling: h_L -> x and chains over (x, h), from any level, under a label, down through noise.

The files are `samplers`, `level`, `labelled` and `descent`.
"""
