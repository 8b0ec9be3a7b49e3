"""Learning rules: LightningModules that give every layer its own local loss.

A rule is one file with one hole filled, `losses(batch, moment)`. What all rules share:

| file | holds |
|---|---|
| `base` | `Rule`: what a rule defines |
| `shell` | the LightningModule around it: the training loop, and Lightning's hooks |
| `moment` | what losses depend on besides batch and weights: progress, noise, what learns |
| `rates` | learning rates, weight decay, optimizer, clipping, for each layer and direction |
| `noise` | where a rule's noise comes from |
| `prior_fit` | when the prior is fitted, and on which codes |
| `ledger`, `record` | losses on their way to the log; facts that the model keeps |
| `resume`, `processes` | interrupted trainings; trainings of several processes |
| `options`, `monitors` | what a Trainer cannot be asked for, and what callbacks wait for |
| `averaging` | averages of weights, with a prior of their own |
| `targets` | how targets come down |
| `chain` | the maps of a stack or a classifier in a row |
| `feedback`, `transposes`, `inverses` | what a displacement of a map's output asks of its input |
| `missing` | what no example says: hidden modalities, labels, latents |
| `labels` | labels are checked before they reach the losses |
| `supervised` | what rules for classifiers share |
| `credit` | how good an assignment of credit is |
"""
