"""Data modules: one tensor per split, on the device, minibatches by index.

| file | holds |
|---|---|
| `base` | what every data module does |
| `images` | `Digits`, `MNIST`, `FashionMNIST`, and images of your own: `Images` |
| `cifar` | `CIFAR10`, coloured images |
| `pickles` | plain data of a pickle, read without running it |
| `augmented` | `Augmented`: images that are turned over and shifted in training |
| `binarised` | `Binarised`: images as bits, drawn once |
| `patches` | `Patches` of photographs, plain or whitened |
| `shards` | images larger than memory |
| `toys` | points in the plane |
| `multimodal` | several modalities: images, labels, parts of images, arrays |
| `dependencies` | long dependencies: the synthetic tasks of recurrent networks |
| `sequences` | sequences of your own, and images read step by step |
| `series` | reading files of sequences, and the rows that they make |
| `characters` | the characters of a text |
| `loader` | batches of rows, shuffled and shared among processes |
| `identity` | which data they are: the SHA-256 of their arrays |
| `sources` | images of your own in all the forms that they come in |
| `tables` | the columns of a .csv or a .parquet |
| `cells` | a .csv cell by cell, to be written again with its gaps filled |
| `files` | reading and writing arrays, IDX files and labels |
| `pictures` | what an image file says, as grey numbers |
| `mosaic` | images side by side in one picture, written as PNG |
"""
