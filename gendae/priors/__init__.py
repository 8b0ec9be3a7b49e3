"""P(h_L): laws of the top-level representation, fitted on codes, and the Parzen density.

| prior | density | sampled | source |
|---|---|---|---|
| `GaussianPrior` | yes | directly | 2014, 7.4; 2015, Algorithm 2 |
| `LinearAutoencoderPrior` | yes | directly | 2014, 7.1 |
| `FactorialPrior` | yes | directly | 2014, 7.2 and 7.4 |
| `ParzenPrior` | yes | directly | 2014, 7.3 |
| `ManifoldParzenPrior` | yes | directly | 2014, 7.3 |
| `DenoisingPrior` | yes | directly | 2014, 2.2.4, at all levels of noise |
| `ConditionalDenoisingPrior` | yes | directly | 2014, 3, of p(h given c) |
| `AutoencoderPrior` | no | by a chain | 2014, 2.2.7, 2.2.8 and Algorithm 3 |

| what a prior is made of | file |
|---|---|
| covariances of a Gaussian | `covariance` |
| laws of independent units | `units` |
| stored codes, and the choice of a bandwidth | `centres`, `bandwidth` |
| a denoiser: its noise, network and training | `levels`, `denoiser`, `level_conv`, `fitting` |
| what it gives: codes, and log p | `descents`, `flow` |
| some units of one without a closed marginal | `marginal` |
| the criteria of an auto-encoder: `Reconstruction`, `NearestNeighbour` | `criteria` |

`base` says what every prior does, and how to write one.
"""
