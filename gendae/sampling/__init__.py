"""Sampling h_L -> x, chains over (x, h) (`samplers`), and from any level of a stack (`level`)."""
