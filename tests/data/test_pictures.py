"""What an image file says beside its pixels: applied by a stated rule, or refused; masks too."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from gendae import Images, Shards
from gendae.commands.inpaint import observed_pixels
from gendae.data.pictures import read_image
from gendae.data.sources import read_images
from gendae.storage.model_file import save
from tests.commands.test_cli import gendae
from tests.conftest import small_stack

HALF = np.zeros((4, 6), np.uint8)
HALF[:, :2] = 255
HALF[0, 0] = 0
GREY = Image.fromarray(HALF)
ORIENTATION = 0x0112

#: An image of each orientation in a file, as it stands when turned.
TURNED = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: a[::-1, ::-1],
    4: np.flipud,
    5: lambda a: a.T,
    6: lambda a: a.T[:, ::-1],
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: a.T[::-1],
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.tif", {}),
        ("a.tif", {"compression": "tiff_lzw"}),
        ("a.jpg", {"quality": 100}),
        ("16 bits.png", {}),
    ],
)
def test_an_image_stands_as_viewers_show_it(tmp_path, name, options, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image = GREY
    if "16" in name:
        image = Image.fromarray(HALF.astype(np.uint16) * 257)
    image.save(tmp_path / name, exif=exif, **options)

    expected = TURNED[orientation](HALF) / 255.0
    read = read_image(tmp_path / name)

    assert read.shape == expected.shape
    assert np.allclose(read, expected, atol=0.02 if name.endswith("jpg") else 0)
    if not name.endswith("jpg"):  # which blurs edges
        mask = observed_pixels(str(tmp_path / name), read.shape)
        assert np.array_equal(mask.view(read.shape).numpy(), expected == 1)


def with_alpha(mode, alpha):
    image = GREY.convert(mode)
    image.putalpha(Image.fromarray(alpha))
    return image


def palette(colours, **info):
    image = Image.fromarray((HALF > 0).astype(np.uint8), "L").convert("P")
    image.putdata((HALF > 0).astype(np.uint8).flatten().tolist())
    image.putpalette(colours)
    image.info.update(info)
    return image


def png(bits, colour, samples, *chunks):
    """A PNG that Pillow does not write."""
    height, width = samples.shape[:2]
    kind = {8: ">u1", 16: ">u2"}[bits]
    rows = b"".join(b"\x00" + row.astype(kind).tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def tiff(data, bits, **tags):
    """A TIFF of one strip that Pillow does not write; 4 x 6 pixels of grey."""
    tags = {256: 6, 257: 4, 258: bits, 259: 1, 262: 1, 277: 1, 278: 4, 279: len(data)} | {
        int(tag[1:]): value for tag, value in tags.items()
    }
    size = 8 + 2 + 12 * (len(tags) + 1) + 4
    tags[273] = size
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    return b"II*\x00" + struct.pack("<IH", 8, len(tags)) + entries + b"\x00" * 4 + data


def gif_of_a_part():
    """A GIF of 6 x 4 pixels whose frame has the left two columns only."""
    stream = io.BytesIO()
    GREY.crop((0, 0, 2, 4)).save(stream, "GIF")
    content = bytearray(stream.getvalue())
    content[6] = 6
    return bytes(content)


OPAQUE = np.full_like(HALF, 255)
BLACK_WHITE = [0, 0, 0, 255, 255, 255]


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("bits.png", GREY.convert("1")),
        ("bits.tif", GREY.convert("1")),
        ("colour.png", GREY.convert("RGB")),
        ("colour.bmp", GREY.convert("RGB")),
        ("opaque.png", with_alpha("L", OPAQUE)),
        ("opaque-colour.png", with_alpha("RGB", OPAQUE)),
        ("palette.png", palette(BLACK_WHITE)),
        ("palette.gif", palette(BLACK_WHITE)),
        ("unused.png", palette([*BLACK_WHITE, 255, 0, 0], transparency=b"\xff\xff\x00")),
        ("16.tif", Image.fromarray(HALF.astype(np.uint16) * 257)),
        ("white-is-zero.tif", tiff((255 - HALF).tobytes(), 8, t262=0)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_decides_nothing_changes_nothing(tmp_path, name, image):
    path = tmp_path / name
    path.write_bytes(image) if isinstance(image, bytes) else image.save(path)
    assert np.array_equal(read_image(path), HALF / 255.0)
    mask = observed_pixels(str(path), HALF.shape)
    assert np.array_equal(mask.view(4, 6).numpy(), HALF > 0)


def test_colour_is_grey_by_luma(tmp_path):
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    Image.fromarray(colours).save(tmp_path / "a.png")
    assert (255 * read_image(tmp_path / "a.png", "grey")).round().tolist() == [[76, 150, 29]]


FRAMES = {"save_all": True, "append_images": [GREY.rotate(180)]}
BLACK = np.zeros((4, 6, 3), np.uint8)
INK = HALF.astype(np.uint16) * 257


@pytest.mark.parametrize(
    ("name", "image", "options", "words"),
    [
        ("ink-in-alpha.png", Image.fromarray(np.dstack([BLACK, HALF])), {}, "17 of its 24 pixels"),
        ("la.png", with_alpha("L", HALF), {}, "transparent"),
        ("one.png", with_alpha("L", OPAQUE - (HALF > 0)), {}, "7 of its 24 pixels"),
        ("alpha.tif", with_alpha("RGB", HALF), {}, "transparent"),
        ("palette.png", palette(BLACK_WHITE), {"transparency": 0}, "17 of its 24 pixels"),
        ("palette-2.png", palette(BLACK_WHITE, transparency=b"\x80\xff"), {}, "17 of its 24"),
        ("palette.gif", palette([9, 0, 0, 0, 9, 9]), {"transparency": 1}, "7 of its 24 pixels"),
        ("frame.gif", gif_of_a_part(), {}, "not in the file"),
        ("strips.tif", tiff(HALF.tobytes(), 8, t278=2), {}, "not in the file"),
        ("planes.tif", tiff(HALF.tobytes(), 8, t262=2, t277=3, t284=2), {}, "not in the file|can"),
        ("bomb.tif", tiff(b"", 8, t256=9000, t257=9000), {}, "9000 x 9000 pixels are more than"),
        ("key.png", GREY, {"transparency": 0}, "colour 0 transparent"),
        ("key-1.png", GREY.convert("1"), {"transparency": 0}, "transparent"),
        ("key-rgb.png", GREY.convert("RGB"), {"transparency": (0, 0, 0)}, "transparent"),
        ("key-16.png", png(16, 0, INK, (b"tRNS", b"\x00\x00")), {}, "transparent"),
        ("frames.gif", GREY, FRAMES, "several frames"),
        ("frames.png", GREY, FRAMES, "several frames"),
        ("pages.tif", GREY, FRAMES, "several frames"),
        ("views.jpg", GREY.convert("RGB"), {"format": "MPO", **FRAMES}, "several frames"),
        ("cmyk.jpg", GREY.convert("CMYK"), {}, "mode CMYK"),
        ("cmyk.tif", GREY.convert("CMYK"), {}, "mode CMYK"),
        ("lab.tif", GREY.convert("RGB").convert("LAB"), {}, "mode LAB"),
        ("ycbcr.tif", GREY.convert("YCbCr"), {}, "mode YCbCr"),
        ("integers.tif", Image.fromarray(HALF.astype(np.int32)), {}, "mode I "),
        ("floats.tif", Image.fromarray(HALF.astype(np.float32)), {}, "mode F "),
        ("12.tif", tiff(bytes(36), 12), {}, "I;12"),
        ("16-white-is-zero.tif", tiff(INK.tobytes(), 16, t262=0), {}, "I;16"),
        ("signed.tif", tiff(HALF.tobytes(), 8, t339=2), {}, "no known range"),
        ("colour-16.png", png(16, 2, np.dstack([INK] * 3)), {}, "16 bits for each"),
        ("la-16.png", png(16, 4, np.dstack([INK, INK])), {}, "16 bits for each"),
        ("beyond.png", png(8, 3, HALF, (b"PLTE", bytes(BLACK_WHITE))), {}, "colour 255 of a pal"),
        ("extra.tif", tiff(bytes(48), 8, t277=2, t338=0), {}, "without a meaning|damaged|cannot"),
        ("webp.png", GREY.convert("RGB"), {"format": "WEBP"}, "none of PNG, JPEG"),
        ("eps.png", GREY, {"format": "EPS"}, "none of PNG, JPEG"),
    ],
)
def test_what_is_not_known_is_refused_by_name(tmp_path, name, image, options, words):
    path = tmp_path / name
    if isinstance(image, bytes):
        path.write_bytes(image)
    else:
        image.save(path, **options)

    for read in (read_images, lambda file: observed_pixels(str(file), (4, 6))):
        with pytest.raises(ValueError, match=words) as error:
            read(path)
        assert name in str(error.value)
        assert "\n" not in str(error.value)


# -- masks ---------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path):
    save(small_stack([64, 8]), tmp_path / "m.safetensors")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((3, 8, 8)))
    return tmp_path


def mask(pixels, folder, **options):
    pixels.save(folder / "mask.png", **options)
    arguments = ["--data", folder / "x.npy", "--mask", folder / "mask.png"]
    return gendae("inpaint", folder / "m.safetensors", *arguments, "--out", folder / "out.png")


LEFT = np.arange(64).reshape(8, 8) % 8 < 4
RED = np.dstack([255 * LEFT, 0 * LEFT, 0 * LEFT]).astype(np.uint8)


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (LEFT.astype(np.uint8), "32 of 64 pixels are grey, 1 to 1 of 255"),
        (RED, "32 of 64 pixels are grey, 76 to 76 of 255"),
        (LEFT.astype(np.uint8) * 254, "254 to 254 of 255"),
        (LEFT.astype(np.uint16) * 65534, "32 of 64 pixels are grey, 255 to 255 of 255"),
        (LEFT.astype(np.uint8) * 127 + 128, "32 of 64 pixels are grey"),
        (np.arange(64, dtype=np.uint8).reshape(8, 8) * 4, "63 of 64 pixels are grey, 4 to 252"),
        (np.full((8, 8), 255, np.uint8), "gives 64 of 64 pixels; some must be given, and some"),
        (np.zeros((8, 8), np.uint8), "gives 0 of 64 pixels"),
        (np.zeros((8, 8), bool), "gives 0 of 64 pixels"),
    ],
)
def test_a_mask_that_is_not_black_and_white_is_refused(model, capsys, pixels, words):
    assert mask(Image.fromarray(pixels), model) == 2
    assert words in capsys.readouterr().err
    assert not (model / "out.png").exists()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_given_pixels_are_counted(model, capsys, mode):
    assert mask(Image.fromarray(LEFT).convert(mode), model) == 0
    assert "32 of 64 pixels are given (white pixels of" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["left", "top", "random"])
def test_a_named_mask_of_a_tiny_image_can_give_nothing(name):
    with pytest.raises(ValueError, match=f"--mask {name} gives [01] of 1 pixels"):
        observed_pixels(name, (1, 1))


# -- order ---------------------------------------------------------------------------------------


def folder_of(names, folder):
    """Files whose grey is their place in the list of names."""
    folder.mkdir()
    for place, name in enumerate(names):
        grey = np.full((2, 2), place, np.uint8)
        if name.endswith(".npy"):
            np.save(folder / name, grey[None])
        else:
            Image.fromarray(grey).save(folder / name)

    np.save(folder.parent / "y.npy", np.arange(len(names)))
    return str(folder)


PADDED = [f"img{i:02}" for i in range(12)]
ORDERS = {
    "digits": [f"img{i}" for i in range(12)],
    "from one": [str(i) for i in range(1, 12)],
    "two numbers": ["a1b9", "a1b10", "a2b1", "a10b1"],
    "zeros": ["1", "02", "3", "010"],
    "beyond ASCII": ["x²9", "x²10"],
}


@pytest.mark.parametrize(("data", "suffix"), [(Images, ".png"), (Shards, ".npy")])
def test_labels_are_those_of_their_files(tmp_path, data, suffix):
    folder = folder_of([name + suffix for name in PADDED], tmp_path / "x")
    data = data(folder, labels=str(tmp_path / "y.npy"), valid_fraction=0.2, test_fraction=0.1)
    for name in ("train", "valid", "test"):
        split = data.split(name)
        assert (split.x[:, 0] * 255).round().tolist() == split.y.tolist()


@pytest.mark.parametrize("names", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize(("data", "suffix"), [(Images, ".png"), (Shards, ".npy")])
def test_files_are_in_natural_order_and_never_paired_where_orders_differ(
    tmp_path, data, suffix, names
):
    folder = folder_of([name + suffix for name in names], tmp_path / "x")
    if data is Images:
        x, _ = read_images(folder)
        assert (x[:, 0] * 255).round().tolist() == list(range(len(names)))
    else:
        files = [file.name for file in Shards(folder).files()]
        assert files == [name + suffix for name in names]

    with pytest.raises(ValueError, match=r"y\.npy cannot be paired with the files"):
        data(folder, labels=str(tmp_path / "y.npy")).setup()
