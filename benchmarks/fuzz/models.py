"""Small models that commands and calls are given, and valid descriptions of all classes."""

import atexit
import functools
import inspect
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

import gendae
from gendae.registry import REGISTRY, import_public

import_public()


@functools.cache
def shared_folder() -> Path:
    """A folder for models of all cases, gone when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-models-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def models() -> dict[str, str]:
    """Paths of small models: of digits, of digits with labels, and a classifier."""
    torch.manual_seed(0)
    digits = gendae.Digits()
    both = gendae.Multimodal(gendae.Digits(), ["image", "label"])
    modalities = {
        "image": {"sizes": [64, 12], "observation": "bernoulli"},
        "label": {"sizes": [10], "kind": "onehot"},
    }
    made = {
        "plain": (gendae.deep_autoencoder([64, 12, 6]), digits),
        "joint": (gendae.joint_autoencoder(modalities, top=[8]), both),
        "classifier": (gendae.deep_classifier([64, 12]), digits),
    }

    dataset = {"type": "Digits", "batch_size": 100, "seed": 0}
    paths = {}
    for name, (stack, data) in made.items():
        x = data.split("train").x
        with torch.no_grad():
            stack.prior.fit(stack.encode(x)[-1])
            stack.fit_residuals(x)

        stack.facts = {"dataset": dataset, "shape": [8, 8], "seed": 0}
        if name == "joint":
            stack.facts["shapes"] = {"image": [8, 8]}
        paths[name] = str(gendae.save(stack, shared_folder() / f"{name}.safetensors"))

    return paths


# -- descriptions --------------------------------------------------------------------------------

OUTPUT = {"type": "Affine", "in_features": 3, "out_features": 2}
LAYERS = {
    "f": {"type": "Affine", "in_features": 4, "out_features": 3},
    "g": {"type": "Affine", "in_features": 3, "out_features": 4},
}
PAIR = {"type": "Pair", **LAYERS}
STACK = {"type": "Stack", "pairs": [PAIR]}
CLASSIFIER = {"type": "Classifier", "pairs": [PAIR], "output": OUTPUT}
JUNCTION = {
    "type": "Junction",
    "f": {"type": "Affine", "in_features": 7, "out_features": 3},
    "g": {"type": "Affine", "in_features": 3, "out_features": 5},
}
JOINT = {
    "type": "JointStack",
    "top": [JUNCTION],
    "modalities": {
        "a": {"type": "Modality", "width": 4, "pairs": [PAIR]},
        "b": {"type": "Modality", "width": 2, "kind": "onehot"},
    },
}
LABEL = {
    "type": "Pair",
    "f": {"type": "Affine", "in_features": 2, "out_features": 3},
    "g": {"type": "Heads", "g": OUTPUT, "activations": ["softmax"], "widths": [2]},
    "observation": {"type": "Categorical"},
}
LABELLED = {"type": "LabelledStack", "pairs": [PAIR], "label": LABEL}
CELL = {
    "type": "Cell",
    "f": {"type": "Affine", "in_features": 5, "out_features": 3},
    "g_state": {"type": "Affine", "in_features": 3, "out_features": 3},
    "g_input": {"type": "Affine", "in_features": 3, "out_features": 2},
}
RECURRENT_PAIR = {"type": "RecurrentPair", "cell": CELL, "steps": 4}
RECURRENT = {"type": "Classifier", "pairs": [RECURRENT_PAIR], "output": OUTPUT}
TREE_CELL = {
    "type": "TreeCell",
    "f": {"type": "Affine", "in_features": 8, "out_features": 3},
    "g_state": {"type": "Affine", "in_features": 3, "out_features": 6},
    "g_input": {"type": "Affine", "in_features": 3, "out_features": 2},
    "arity": 2,
}
TREE_ROWS = {"type": "TreeRows", "nodes": 4, "arity": 2, "width": 2}
TREE_PAIR = {"type": "TreePair", "cell": TREE_CELL, "layout": TREE_ROWS}
TREES = {"type": "Classifier", "pairs": [TREE_PAIR], "output": OUTPUT}
NOISE = {"type": "GaussianNoise", "sigma": 0.1}
BAND = {"type": "Band", "features": 4}
BANDS = {
    "type": "Stack",
    "pairs": [{"type": "Pair", "f": {"type": "Unchanged", "in_features": 4}, "g": BAND}],
}
LABEL_BLOCK = {
    "type": "LabelBlock",
    "encoder": {"type": "Affine", "in_features": 4, "out_features": 3},
    "band": {"type": "Band", "features": 2, "condition": 3},
    "first": True,
}
LABEL_LOGITS = {"type": "LabelLogits", "in_features": 6, "out_features": 2}
LABEL_PAIR = {
    "type": "Pair",
    "f": LABEL_BLOCK,
    "g": {"type": "Unchanged", "in_features": 6, "out_features": 4},
}
LABEL_BLOCKS = {"type": "Classifier", "pairs": [LABEL_PAIR], "output": LABEL_LOGITS}
GOODNESS_LAYER = {"type": "GoodnessLayer", "width": 4, "units": 3, "classes": 2}
GOODNESS_LOGITS = {"type": "GoodnessLogits", "in_features": 8, "out_features": 2}
GOODNESS_PAIR = {
    "type": "Pair",
    "f": GOODNESS_LAYER,
    "g": {"type": "Zeros", "in_features": 8, "out_features": 4},
}
GOODNESS = {"type": "Classifier", "pairs": [GOODNESS_PAIR], "output": GOODNESS_LOGITS}
#: What a constructor needs, beside its defaults.
NEEDED: dict[str, dict[str, Any]] = {
    "Affine": OUTPUT,
    "Band": BAND,
    "Filling": {"shape": [2, 2]},
    "FillingBand": {"filling": {"type": "Filling", "shape": [2, 2]}},
    "GoodnessLayer": GOODNESS_LAYER,
    "GoodnessLogits": GOODNESS_LOGITS,
    "Zeros": {"in_features": 3, "out_features": 2},
    "LabelBlock": LABEL_BLOCK,
    "LabelLogits": LABEL_LOGITS,
    "Unchanged": {"in_features": 4},
    "Arrays": {"files": {"a": "a.npy"}},
    "Cell": CELL,
    "Classifier": CLASSIFIER,
    "LabelledStack": LABELLED,
    "PartlyLabelled": {
        "source": {"type": "Digits"},
        "labelled": {"type": "FewLabels", "count": 10},
    },
    "ListOps": {"depths": [1]},
    "Quadtree": {"shape": [4, 4], "patch": 1},
    "SpreadLabels": {"source": {"type": "Digits"}, "codes_of": "m.ckpt"},
    "Augmented": {"source": {"type": "Digits"}},
    "Binarised": {"source": {"type": "Digits"}},
    "RecurrentPair": RECURRENT_PAIR,
    "TreeCell": TREE_CELL,
    "TreePair": TREE_PAIR,
    "TreeRows": TREE_ROWS,
    "Pair": LAYERS,
    "OptimizingPair": LAYERS,
    "EachModality": {"corruptions": [None, NOISE], "widths": [1, 2]},
    "FewLabels": {"count": 10},
    "FlipNoise": {"probability": 0.1},
    "GaussianNoise": {"sigma": 0.1},
    "RelativeNoise": {"sigma": 0.1},
    "Conv": {"in_shape": [1, 2, 2], "channels": 2, "kernel": 1},
    "ConvTranspose": {"in_shape": [1, 2, 2], "channels": 2, "kernel": 1},
    "Pool": {"in_shape": [1, 2, 2]},
    "Unpool": {"in_shape": [1, 2, 2]},
    "Layers": {"layers": [OUTPUT]},
    "LevelConv": {"shape": [1, 2, 2]},
    "GatedConv": {"shape": [1, 2, 2]},
    "Heads": {"g": OUTPUT, "activations": ["linear", "sigmoid"], "widths": [1, 1]},
    "Images": {"path": "x.npy"},
    "InMemory": {"sha256": "0" * 64, "shape": [5, 2, 2]},
    "SaltAndPepperNoise": {"probability": 0.1},
    "Shards": {"path": "x.npy"},
    "Sequences": {"path": "x.npz"},
    "Characters": {"path": "x.txt"},
    "ImageSequences": {"source": {"type": "Digits"}},
    "LSTMReader": {"width": 2, "steps": 3, "state": 2},
    "EveryStep": {"in_features": 6, "out_features": 2, "steps": 3},
    "Residual": {"branch": OUTPUT},
    "InvertibleAffine": {"features": 3},
    "InvertiblePair": {"features": 3},
    "JointStack": JOINT,
    "Junction": JUNCTION,
    "Laws": {"laws": [{"type": "Gaussian"}, {"type": "Bernoulli"}], "widths": [1, 2]},
    "LearnedGaussian": {"features": 3, "hidden": [2], "given": 4},
    "MLP": {"in_features": 2, "hidden": [3], "out_features": 2},
    "MaskingNoise": {"probability": 0.1},
    "Modality": {"width": 3, "pairs": []},
    "Multimodal": {"source": {"type": "Digits"}, "parts": ["image", "label"]},
    "Stack": STACK,
    "TiedPair": {"in_features": 3, "out_features": 2},
    "Wrapped": {"module": OUTPUT, "in_shape": 3},
}
COMPETING = {
    "type": "Stack",
    "pairs": [
        {
            "type": "Pair",
            "f": {
                "type": "Heads",
                "g": LAYERS["f"],
                "activations": ["softmax"],
                "widths": [3],
            },
            "g": LAYERS["g"],
        }
    ],
}
#: Rules of other stacks than a Stack.
STACKS = {
    "BackpropRule": CLASSIFIER,
    "CompetitiveRule": COMPETING,
    "ContrastiveHebbianRule": CLASSIFIER,
    "DeltaRule": CLASSIFIER,
    "DenoisingBlocksRule": BANDS,
    "DenoisingLabelsRule": LABEL_BLOCKS,
    "DifferenceTargetPropRule": CLASSIFIER,
    "EquilibriumPropagationRule": CLASSIFIER,
    "FeedbackAlignmentRule": CLASSIFIER,
    "FeedbackRule": CLASSIFIER,
    "ForwardForwardRule": GOODNESS,
    "GeneRecRule": CLASSIFIER,
    "StraightThroughRule": CLASSIFIER,
    "JointTargetPropRule": JOINT,
    "LabelledEMRule": LABELLED,
    "NudgedEMRule": LABELLED,
    "NodePerturbationRule": CLASSIFIER,
    "NudgedSTDPRule": CLASSIFIER,
    "PredictiveCodingRule": CLASSIFIER,
    "RecurrentTargetPropRule": RECURRENT,
    "RegularizedInversionRule": RECURRENT,
    "ReinforceRule": CLASSIFIER,
    "TransposeFeedbackRule": RECURRENT,
    "TruncatedBackpropRule": RECURRENT,
    "TreeTargetPropRule": TREES,
    "WeightPerturbationRule": CLASSIFIER,
}


def description_of(name: str) -> dict[str, Any]:
    """A valid description of a registered class: what it needs, and its plain defaults."""
    needed = NEEDED.get(name, {})
    if name.endswith("Rule"):
        needed = {"stack": STACKS.get(name, STACK)}

    description = {"type": name, **needed}
    for parameter in inspect.signature(REGISTRY[name]).parameters.values():
        plain = isinstance(parameter.default, bool | int | float | str | None)
        if plain and parameter.name not in description:
            description[parameter.name] = parameter.default

    return description | {"type": name}
