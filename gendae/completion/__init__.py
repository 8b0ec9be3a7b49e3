"""Completion: likely values, or samples, of what is missing, given the rest (2014, Algorithm 6).

| file | holds |
|---|---|
| `chain` | `ClampedChain`: rounds that move what is missing; where it ended, a `Completion` |
| `annealing` | the temperatures of its rounds |
| `completer` | `Completer`: rounds of encoding and decoding, MAP, MCMC or annealed |
| `moves` | the parts of a round, and where missing elements start |
| `descent` | missing pixels of a stack of bands, from noise down through all levels |
| `inpainting` | missing pixels by clamped inference (2015, section 8), named masks |
| `annealed` | missing pixels through the code, by the levels of a denoising prior |
| `modalities` | missing modalities of a joint model, and parts of them |
"""
