"""Files that hold data only, whole or not at all.

| file | holds |
|---|---|
| `atomic` | writing a whole file, or none |
| `inputs` | what is read: regular files, which the command that reads them never replaces |
| `sealed` | Lightning's .ckpt, sealed by a checksum, and reading it |
| `archive` | how a Trainer writes and reads it |
| `owned` | what was read, in memory of its own: ordinary tensors, plain data of bounded size |
| `description` | what a file declares, compared with what it holds before it is built |
| `progress` | how far a training had come, checked before Lightning takes it over |
| `verify` | whether a file belongs to a model, asked before anything is loaded |
| `model_file` | trained models as .safetensors: `save`, `load` |
| `shipped` | where the configurations and models that come with gendae lie |
"""
