"""Layer pairs (f_l, g_l): an encoder and a decoder that learn to invert each other.

| file | holds |
|---|---|
| `activations` | s of a layer: in place, its differences, inverse and range |
| `affine`, `mlp` | maps h -> s(W h + b), and maps with hidden layers inside |
| `conv` | convolution, its transpose, and pooling of images |
| `layers` | several layers in a row as one map |
| `pair` | `Pair`: f, g and the laws around them; `TiedPair` |
| `residual` | maps that add to what they are given |
| `wrapped` | any nn.Module as f or g |
| `invertible` | pairs whose g is the exact inverse of f (2014, section 6) |
| `optimized` | pairs whose f is found by minimizing the reconstruction error (2014, 2.2.2) |
| `onednn` | matrix products with weights that stay the same over many calls |
"""
