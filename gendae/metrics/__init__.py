"""How good a model is: functions of tensors, and thin torchmetrics shells around them.

| file | holds |
|---|---|
| `parzen` | Parzen log-likelihood of samples, and the choice of its bandwidth |
| `bounds` | importance-weighted bounds on log p(x) |
| `annealed` | log p(x) by annealed importance sampling, from below and from above |
| `latents`, `transitions` | what its chains move, and how |
| `traces` | what inference does, step by step |
| `spikes` | weight change against spike timing: the window of STDP |
| `chains` | autocorrelation, effective samples and class switches of Markov chains |
| `neighbours` | precision, recall, density, coverage, copying |
| `codes` | the prior on its own: copying of codes, log p(h_L) of training and test codes |
| `fidelity` | PSNR and SSIM of reconstructed and filled images |
| `quality`, `features` | FID, KID, and the features they are measured in |
| `paired` | differences between rules by seed, and intervals of their bootstraps |
| `precision` | scores in full precision, whatever training uses |
| `report` | all of it for one model, beside the best that its decoder allows and baselines |
"""
