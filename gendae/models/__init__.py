"""Models: stacks of layer pairs under a top-level prior.

| file | holds |
|---|---|
| `stack` | `Stack`: the deep generative model p(x, h) and q(h given x) |
| `classifier` | `Classifier`: a stack with an output layer |
| `blocks`, `label_blocks` | pairs that own a band of noise, of data and of labels |
| `goodness` | layers that try every label, and what they answer |
| `labelled` | `LabelledStack`: a stack whose top explains a label beside x |
| `modalities`, `joint` | several kinds of data with stacks of their own, under one top stack |
| `noise` | the corruption that trains a stack where none is given |
| `architectures`, `convolutional` | functions that compose models from sizes and shapes |
"""
