"""Completion: likely values, or samples, of what is missing, given the rest (2014, Algorithm 6).

| file | holds |
|---|---|
| `completer` | `Completer`: clamped rounds of encoding and decoding, MAP, MCMC or annealed |
| `moves` | the parts of a round, and where missing elements start |
| `inpainting` | missing pixels by clamped inference (2015, section 8), named masks |
| `modalities` | missing modalities of a joint model, and parts of them |
"""
