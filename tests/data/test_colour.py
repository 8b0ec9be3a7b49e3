"""Images of three channels: rows are red, then green, then blue, wherever they go."""

import numpy as np
import pytest
import torch
from PIL import Image

from gendae import (
    Arrays,
    Images,
    ImageSequences,
    Multimodal,
    Shards,
    complete,
    generate,
    inpaint,
    joint_autoencoder,
    load,
    named_mask,
    plots,
    save,
)
from gendae.checks import ImageShape
from gendae.commands.common import color_of
from gendae.commands.complete import value_of
from gendae.data.mosaic import tile, write_png
from gendae.data.pictures import read_image
from gendae.data.sources import read_images
from tests.commands.test_cli import gendae
from tests.conftest import small_stack

SHAPE = (3, 4, 6)
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 4, 6, 3), np.uint8)  # as files have them
X = torch.from_numpy(np.moveaxis(PIXELS, 3, 1).reshape(20, -1).astype(np.float32)) / 255


def folder(path, pixels=PIXELS):
    path.mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(path / f"{number}.png")
    return path


def stack_of_colour():
    stack = small_stack((72, 20, 5))
    stack.facts = {"kind": "image", "shape": list(SHAPE)}
    return stack


def everything(data):
    return torch.cat([data.split(name).x for name in ("train", "valid", "test")])


FORMS = {
    "folder": lambda at: folder(at / "photos"),
    "last": lambda at: PIXELS,
    "first": lambda at: np.moveaxis(PIXELS, 3, 1) / 255.0,
    "rows": lambda at: X,
    "items": lambda at: [Image.fromarray(image) for image in PIXELS],
}


@pytest.mark.parametrize(("shape", "color"), [([4, 6], "rgb"), ([3, 4, 6], None)])
@pytest.mark.parametrize("form", FORMS)
def test_images_of_any_form_have_rows_of_channels(tmp_path, form, shape, color):
    data = Images(FORMS[form](tmp_path), shape=shape, color=color)
    assert data.shape == SHAPE

    rows = everything(data)
    order = (rows[:, None] - X).abs().amax(2).argmin(0)
    assert torch.allclose(rows[order], X, atol=1e-6)


def test_grey_images_among_coloured_ones_have_three_equal_channels(tmp_path):
    files = folder(tmp_path / "photos", [*PIXELS[:2], PIXELS[2, ..., 0]])
    x, shape = read_images(files, "rgb")
    assert shape == SHAPE
    assert torch.equal(x[:2], X[:2])
    assert torch.equal(x[2].view(3, 24), X[2, :24].expand(3, 24))

    grey, _ = read_images(PIXELS[..., 0], "rgb")
    assert torch.equal(grey.view(20, 3, 24), X[:, None, :24].expand(20, 3, 24))

    of_16_bits = np.array([[0, 65535], [256, 3]], np.uint16)
    Image.fromarray(of_16_bits).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", "rgb")[..., 2] == pytest.approx(of_16_bits / 65535)


@pytest.mark.parametrize("suffix", ["photos", "x.npy"])
def test_colour_that_is_not_as_told_is_refused_in_one_line(tmp_path, suffix):
    folder(tmp_path / "photos", [PIXELS[0], PIXELS[1].transpose(1, 0, 2)])
    np.save(tmp_path / "x.npy", PIXELS)

    words = "different sizes: 0.png is 4 x 6 x 3, 1.png is 6 x 4 x 3; one size is needed"
    with pytest.raises(ValueError, match=words):
        Images(str(tmp_path / "photos"), color="rgb").setup()
    with pytest.raises(ValueError, match=r"shape=\(3, 6, 4\): the images of .* shape \(3, 4, 6\)"):
        Images(PIXELS, shape=[6, 4], color="rgb").setup()
    with pytest.raises(ValueError, match=r"shape=\(3, 4, 6\): color=\"grey\" takes grey images"):
        Images(PIXELS.reshape(len(PIXELS), -1), shape=[3, 4, 6], color="grey").setup()
    with pytest.raises(ValueError, match=r"color=None: .*x.npy holds images of shape \(3, 4, 6\)"):
        Shards(str(tmp_path / "x.npy")).setup()
    with pytest.raises(ValueError, match=r"shape=\(4, 4, 6\): height and width, or 3 and these"):
        ImageShape.of((4, 4, 6))


# -- masks ----------------------------------------------------------------------------------------

LEFT = torch.arange(24).view(4, 6) % 6 < 3
RED = torch.tensor([True, False, False])[:, None, None].expand(SHAPE)
MASKS = {
    "pixels": (LEFT, LEFT.expand(SHAPE)),
    "row": (LEFT.flatten(), LEFT.expand(SHAPE)),
    "named": (named_mask("left", SHAPE), LEFT.expand(SHAPE)),
    "channels": (RED, RED),
    "of each": (RED.expand(2, *SHAPE), RED),
    "pixels of each": (LEFT.expand(2, 4, 6), LEFT.expand(SHAPE)),
    "one channel of each": (LEFT.expand(2, 1, 4, 6), LEFT.expand(SHAPE)),
}


@pytest.mark.parametrize("form", MASKS)
def test_a_mask_is_of_pixels_or_of_channels(form):
    mask, given = MASKS[form]
    stack = stack_of_colour()
    filled = inpaint(stack, X[:2], mask, seed=0)
    expected = inpaint(stack, X[:2], given.flatten(), seed=0)
    assert torch.equal(filled, expected)
    assert torch.equal(filled == X[:2], given.flatten().expand(2, 72))


def test_a_mask_of_three_channels_or_of_three_images_is_refused():
    stack = stack_of_colour()
    for mask in (RED, RED.flatten(1)):
        with pytest.raises(ValueError, match=r"may be one of 3 channels, or of 3 images; give"):
            inpaint(stack, X[:3], mask)

    told = inpaint(stack, X[:3], RED[None], seed=0)
    assert torch.equal(told == X[:3], RED.flatten().expand(3, 72))
    told = inpaint(stack, X[:3], LEFT.expand(3, 1, 4, 6), seed=0)
    assert torch.equal(told == X[:3], LEFT.flatten().repeat(3).expand(3, 72))


# -- pictures -------------------------------------------------------------------------------------


def test_pictures_and_files_show_every_channel(tmp_path):
    canvas = tile(X[:4], SHAPE, columns=2)
    assert canvas.shape == (11, 15, 3)
    assert torch.equal(canvas[1:5, 8:14], torch.from_numpy(PIXELS[1]) / 255)
    assert (canvas[5] == 0.5).all()

    written = np.asarray(Image.open(write_png(canvas, tmp_path / "a.png")))
    scale = written.shape[0] // 11
    assert np.array_equal(
        written[scale : 5 * scale : scale, 8 * scale : 14 * scale : scale], PIXELS[1]
    )

    figure = plots.inpainting(X[:2], LEFT, X[2:4], SHAPE)
    drawn = np.asarray(figure.axes[0].images[0].get_array())[1:5]
    assert np.allclose(drawn[:, 8:11], PIXELS[0][:, :3] / 255)
    assert (drawn[:, 11:14] == 0.5).all()
    assert np.allclose(drawn[:, 15:21], PIXELS[2] / 255)
    assert plots.pixels(figure, color=True).shape[2] == 3


def test_commands_of_a_model_of_colour(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "photos")
    stack = stack_of_colour()
    save(stack, "m.safetensors")
    assert color_of(load("m.safetensors")) == "rgb"

    Image.fromarray(LEFT.numpy().astype(np.uint8) * 255).save("mask.png")
    for out in ("a.png", "a.gif"):
        command = ["inpaint", "m.safetensors", "--data", "photos", "--mask", "mask.png"]
        assert gendae(*command, "--out", out) == 0
        assert "12 of 24 pixels are given (white pixels of mask.png)" in capsys.readouterr().out
        shown = np.asarray(Image.open(out).convert("RGB")).astype(int)
        assert (shown.max(2) - shown.min(2)).max() > 100

    assert gendae("sample", "m.safetensors", "--n", 4, "--out", "s.npz") == 0
    assert gendae("sample", "m.safetensors", "--n", 4, "--out", "s.gif") == 0
    samples = np.load("s.npz")["samples"]
    assert np.allclose(samples, generate(stack, 4, seed=0).clamp(0, 1), atol=1e-6)
    assert gendae("filters", "m.safetensors", "--n", 4) == 0
    assert Image.open("filters.png").mode in ("RGB", "RGBA")

    capsys.readouterr()
    assert gendae("demo", "m.safetensors", "--out", "page") == 2
    words = "shape=(3, 4, 6): the page that shows m takes grey images"
    assert words in capsys.readouterr().err


# -- other data sets ------------------------------------------------------------------------------


def test_parts_and_steps_of_coloured_images(tmp_path):
    np.save(tmp_path / "x.npy", PIXELS)
    np.save(tmp_path / "y.npy", np.arange(20) % 2)
    source = Images(PIXELS, labels=np.arange(20) % 2, color="rgb")
    x = source.split("train").x
    images = x.view(-1, *SHAPE)

    data = Multimodal(source, ["left", "right", "edges"], classes=2)
    assert data.shapes == {"left": [3, 4, 3], "right": [3, 4, 3], "edges": [4, 6]}
    left, right, edges = data.split("train").x.split([36, 36, 24], 1)
    halves = [left.view(-1, 3, 4, 3), right.view(-1, 3, 4, 3)]
    assert torch.equal(torch.cat(halves, 3), images)
    assert edges.max() > 0.1

    own = Arrays({"image": str(tmp_path / "x.npy"), "label": str(tmp_path / "y.npy")})
    assert own.shapes == {"image": [3, 4, 6]}
    assert torch.isin(own.split("test").x[:, :72], X * 255).all()

    steps = ImageSequences(source).split("train").x.view(-1, 4, 6, 3)
    assert torch.equal(steps.permute(0, 3, 1, 2), images)
    rows = ImageSequences(source, step="row", side=2)
    assert rows.shape == (2, 6)
    assert rows.kind == "sequence"
    assert rows.split("train").x[0, 2] == pytest.approx(float(images[0, 2, :2, :3].mean()))


def test_a_coloured_modality_is_completed_and_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    source = Images(PIXELS, labels=np.arange(20) % 2, color="rgb")
    data = Multimodal(source, ["image", "label"], classes=2)
    modalities = {
        "image": {"sizes": [72, 12], "observation": "bernoulli"},
        "label": {"sizes": [2], "kind": "onehot"},
    }
    stack = joint_autoencoder(modalities, top=[8])
    stack.prior.fit(stack.encode(data.split("train").x)[-1].detach())
    stack.facts = {"shape": list(data.shape), "shapes": data.shapes}

    filled = complete(stack, {"image": X[:2]}, {"image": LEFT}, seed=0).values["image"]
    given = LEFT.flatten().repeat(3)
    assert torch.equal(filled[:, given], X[:2, given])
    assert not torch.equal(filled[:, ~given], X[:2, ~given])

    save(stack, "j.safetensors")
    np.save("x.npy", PIXELS / np.float32(255))
    command = ["complete", "j.safetensors", "--given", "image=x.npy", "--mask", "left"]
    assert gendae(*command, "--out", "c.npz") == 0
    assert "12 of 24 pixels of image were given" in capsys.readouterr().out
    assert np.allclose(np.load("c.npz")["image"][:, given], X[:, given], atol=1e-6)

    assert gendae("sample", "j.safetensors", "--n", 4, "--out", "a.png") == 0
    assert Image.open("a.png").mode == "RGB"


def joint_of_images():
    """A coloured image by a convolution, edges by an affine layer, and a label."""
    modalities = {
        "image": {"shape": [3, 4, 6], "channels": [2], "sizes": [5]},
        "edges": {"sizes": [24, 3]},
        "label": {"sizes": [2], "kind": "onehot"},
    }
    stack = joint_autoencoder(modalities, top=[4])
    stack.facts = {"shapes": {"image": [3, 4, 6], "edges": [4, 6]}}
    return stack


GREY = PIXELS[..., 0]
OF_MODALITIES = {
    "bytes": ("image", PIXELS[:2], X[:2]),
    "channels first": ("image", np.moveaxis(PIXELS[:2], 3, 1), X[:2]),
    "rows of bytes": ("image", np.moveaxis(PIXELS[:2], 3, 1).reshape(2, -1), X[:2]),
    "grey in colour": ("image", GREY[:2], X[:2, :24].repeat(1, 3)),
    "grey bytes": ("edges", GREY[:2], X[:2, :24]),
    "grey": ("edges", GREY[:2] / np.float32(255), X[:2, :24]),
    "zeros and ones": ("edges", LEFT.numpy().astype(np.uint8)[None], LEFT.view(1, 24).float()),
}


@pytest.mark.parametrize("form", OF_MODALITIES)
def test_images_of_a_modality_are_read_as_the_model_takes_them(tmp_path, form):
    name, array, expected = OF_MODALITIES[form]
    np.save(tmp_path / "x.npy", array)
    told = value_of(joint_of_images(), name, str(tmp_path / "x.npy"))
    torch.testing.assert_close(told, expected, rtol=0, atol=1e-7)


def test_images_that_a_modality_does_not_take_are_refused_in_one_line(tmp_path):
    np.save(tmp_path / "x.npy", PIXELS)
    path = str(tmp_path / "x.npy")
    stack = joint_of_images()

    with pytest.raises(ValueError, match="x.npy holds coloured pixels.*--data.color grey or rgb"):
        value_of(stack, "edges", path)
    luma = value_of(stack, "edges", path, "grey")
    assert luma.shape == (20, 24)
    for name, color, takes in (("edges", "rgb", "grey"), ("image", "grey", "coloured")):
        with pytest.raises(ValueError, match=f"--color {color}: the model takes {takes} images"):
            value_of(stack, name, path, color)

    for values, words in (
        (PIXELS, "holds values from 0 to 255, as images of 0..255 do; divide by 255"),
        (PIXELS / 255.0, r"has shape \(20, 4, 6, 3\): channels come first"),
    ):
        given = np.moveaxis(values, 3, 1) if values is PIXELS else values
        with pytest.raises(ValueError, match=words):
            complete(stack, {"image": given})


def test_filters_are_those_of_a_modality(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    stack = joint_of_images()
    save(stack, "j.safetensors")
    shown = []
    monkeypatch.setattr(plots, "filters", lambda w, shape: shown.append((w, tuple(shape))))
    monkeypatch.setattr(plots, "save", lambda figure, out: out)

    assert gendae("filters", "j.safetensors", "--modality", "image") == 0
    assert gendae("filters", "j.safetensors", "--modality", "edges") == 0
    assert gendae("filters", "j.safetensors", "--level", 2) == 0  # only the image has such a layer
    kernels, edges, top = shown
    own = stack.modalities["image"].pairs[0].f.weight.flatten(1)
    assert (kernels[1], edges[1], edges[0].shape) == ((3, 4, 4), (4, 6), (3, 24))
    assert torch.equal(kernels[0].sort(0).values, own.sort(0).values)
    assert top[0].shape == (5, 12)

    capsys.readouterr()
    for arguments, words in (
        ([], "has several modalities: name one with a layer f_1 of its own, --modality image or"),
        (["--modality", "label"], "--modality label: name one"),
        (["--level", 3], "--level 3: f_3 of j.safetensors takes the codes of all modalities"),
    ):
        assert gendae("filters", "j.safetensors", *arguments) == 2
        assert words in capsys.readouterr().err
