"""Random and nearly valid input: a call works and its result is sane, or it ends in one error.

`oracle` says what sane and clear mean, `files`, `values` and `commands` hold the strategies, and
`targets` the properties, one for each kind of input. `python -m benchmarks.fuzz` runs them.
"""
