"""Samples are drawn, and written, as suits what they are."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from gendae import deep_autoencoder, named_mask, plots
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


def shown(figure):
    """The pixels that a notebook shows."""
    return np.asarray(Image.open(io.BytesIO(figure._repr_png_())).convert("L"))


@pytest.mark.parametrize("n", [1, 7, 100])
def test_small_images_are_shown_large_each_pixel_a_square(n):
    pixels = shown(plots.image_grid(torch.rand(n, 64), (8, 8)))
    height, width = pixels.shape
    assert 600 <= width <= 700 and height <= 1200

    scale = width // (9 * int(np.ceil(n**0.5)) + 1)
    squares = pixels.reshape(height // scale, scale, width // scale, scale)
    assert (squares == squares[:, :1, :, :1]).all()


def test_inpainted_images_stand_under_their_names():
    x, filled = torch.rand(2, 3, 64)
    mask = named_mask("left", (8, 8))
    figure = plots.inpainting(x, mask, filled, (8, 8))

    assert [text.get_text() for text in figure.texts] == ["original", "given", "filled"]
    canvas = plots.side_by_side({"a": x, "b": x, "c": filled}, (8, 8)).axes[0].images[0]
    drawn = figure.axes[0].images[0].get_array()
    assert np.array_equal(drawn[:, 19:], canvas.get_array()[:, 19:])
    assert (drawn[1:9, 10:14] == x[0].view(8, 8)[:, :4].numpy()).all()
    assert (drawn[1:9, 14:18] == 0.5).all()


def legend(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_legends_name_what_is_drawn_and_only_that():
    sigma = torch.tensor([0.2, 0.3, 0.9])
    assert legend(plots.spectrum(sigma, 2)) == ["signal", "noise", "2 dimensions"]
    assert legend(plots.spectrum(sigma, 3)) == ["signal", "3 dimensions"]
    assert legend(plots.trace(torch.rand(4, 9))) == ["single images", "mean of 9 images"]

    curves = {
        "one": (torch.tensor([1]), torch.tensor([[0.9]])),
        "two": (torch.tensor([1, 2]), torch.tensor([[0.1, 0.05]])),
    }
    one, two = plots.learning_curves(curves).axes[0].lines
    assert (one.get_marker(), two.get_marker()) == ("o", "")

    with pytest.raises(ValueError, match="figure=None: a Figure is needed"):
        plots.pixels(None)

    values = {"a": torch.rand(4, 3), "b": torch.rand(4, 3)}
    figure = plots.bands({("left", "y"): values, ("right", "y"): values}, "x", outside=True)
    assert [axes.get_legend() for axes in figure.axes] == [None, None]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
