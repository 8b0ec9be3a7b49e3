"""Samples are drawn, and written, as suits what they are."""

import numpy as np
import pytest
import torch

from gendae import deep_autoencoder
from gendae.commands.sample import write_samples
from gendae.models.joint import kind_of
from gendae.plots import gallery


@pytest.mark.parametrize(
    ("width", "facts", "kind"),
    [
        (2, {"kind": "image", "shape": [1, 2]}, "image"),
        (2, {"kind": "points", "shape": [1, 2]}, "points"),
        (2, {"kind": "vector", "shape": [1, 2]}, "vector"),
        (2, {"shape": [1, 2]}, "points"),  # version 0.1
        (2, {"shape": [2, 1]}, "image"),
        (2, {}, "points"),
        (4, {}, "image"),
    ],
)
def test_samples_are_drawn_and_written_as_their_kind(width, facts, kind, tmp_path):
    stack = deep_autoencoder([width, 3])
    stack.facts = facts
    assert kind_of(stack) == kind

    x = torch.linspace(-1.0, 2.0, 5 * width).view(5, width)
    (axes,) = gallery(x, kind, (1, width)).axes
    drawn = {"images": len(axes.images), "lines": len(axes.lines)}
    assert drawn["images"] == (kind == "image")
    assert drawn["lines"] == {"image": 0, "points": 1, "vector": 5}[kind]
    if kind == "points":
        assert torch.equal(torch.tensor(axes.lines[0].get_xydata()).float(), x)

    written = np.load(write_samples(x, tmp_path / "x.npy", kind, (1, width)))
    expected = x.clamp(0.0, 1.0) if kind == "image" else x
    assert np.array_equal(written, expected.numpy())
