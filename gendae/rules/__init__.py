"""Learning rules: LightningModules that give every layer its own local loss.

A rule is one file with one hole filled: `losses`. Beside the rules stand `base` (the training loop),
`targets` (how targets come down), `credit` (how good an assignment of credit is), `ledger` (losses on
their way to the log), `resume` and `processes` (interrupted trainings, trainings of several
processes) and `missing` (what no example says).
"""
