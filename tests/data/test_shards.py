"""Data larger than memory: batches from arrays on disk, in bounded memory."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from gendae import cli, load
from gendae.data import shards
from gendae.data.images import Digits, Images
from gendae.data.loader import Split, TensorLoader
from gendae.data.shards import Rows, Shards


@pytest.fixture
def folder(tmp_path):
    """Three shards of 4, 5 and 3 images of 3 x 2 bytes; image i is filled with i."""
    values = np.arange(12, dtype=np.uint8)
    for name, part in zip("abc", np.split(values, [4, 9]), strict=True):
        np.save(tmp_path / f"{name}.npy", np.broadcast_to(part[:, None, None], (len(part), 3, 2)))

    return tmp_path


def test_rows_of_several_shards_come_in_the_order_asked_for(folder):
    rows = Rows(sorted(folder.glob("*.npy")))
    index = torch.tensor([11, 0, 4, 3, 8, 4])

    assert rows.shape == (12, 6)
    assert torch.equal(rows[index], (index / 255).float()[:, None].expand(-1, 6))
    assert torch.equal(rows[2:4], (torch.tensor([2, 3]) / 255).float()[:, None].expand(-1, 6))

    again = rows.select(torch.tensor([5, 2, 9]))
    assert torch.equal(again[torch.tensor([2, 0])][:, 0] * 255, torch.tensor([9.0, 5.0]))
    assert rows[:0].shape == (0, 6)


def rows_of_shards(folder):
    rows = Rows(sorted(folder.glob("*.npy")))
    return rows, rows[:]


def rows_of_a_split(folder):
    np.save(folder / "x.npy", np.random.default_rng(0).random((60, 64), np.float32))
    data = Shards(str(folder / "x.npy"), shape=[8, 8])
    return data.rows("train").x, data.split("train").x


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("rank", "ranks"), [(0, 1), (0, 2), (1, 2)])
@pytest.mark.parametrize("rows", [rows_of_shards, rows_of_a_split])
def test_batches_are_those_of_the_same_data_in_memory(folder, rows, rank, ranks, shuffle):
    """Also the share of each rank, and the order of every epoch."""
    options = {"shuffle": shuffle, "rank": rank, "ranks": ranks}
    mapped, held = (TensorLoader(Split(x), 2, seed=3, **options) for x in rows(folder))

    for _ in range(2):
        for a, b in zip(mapped, held, strict=True):
            assert torch.equal(a[0], b[0])


def test_splits_hold_every_image_once_and_labels_follow(folder):
    labels = folder.parent / "y.npy"
    np.save(labels, np.arange(12))
    data = Shards(str(folder), valid_fraction=0.25, test_fraction=0.25, labels=str(labels))
    parts = [data.split(name) for name in ("train", "valid", "test")]

    assert [len(part.x) for part in parts] == [6, 3, 3]
    for x, y, _ in parts:
        assert torch.equal((x[:, 0] * 255).round().long(), y)

    assert sorted(torch.cat([part.y for part in parts]).tolist()) == list(range(12))
    assert data.shape == (3, 2)


def test_the_command_line_trains_on_a_folder_of_shards(tmp_path):
    x = Digits().split("train").x.numpy()
    (tmp_path / "shards").mkdir()
    for k, part in enumerate(np.array_split((x * 255).astype(np.uint8), 5)):
        np.save(tmp_path / "shards" / f"{k}.npy", part)

    options = {
        "config": "configs/digits-variational-em.yaml",
        "data": "Shards",
        "data.path": tmp_path / "shards",
        "trainer.max_epochs": 2,
        "trainer.default_root_dir": tmp_path,
        "trainer.enable_progress_bar": "false",
        "trainer.enable_model_summary": "false",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    assert cli.main(["fit", *words]) == 0

    checkpoint = tmp_path / "0001" / "checkpoints" / "last.ckpt"
    assert load(checkpoint).facts["dataset"]["type"] == "Shards"
    assert cli.main(["evaluate", str(checkpoint), "--n", "200"]) == 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda f: np.save(f / "d.npy", np.zeros((2, 3, 3), np.uint8)),
            r"d\.npy holds rows of shape \(3, 3\)",
        ),
        (
            lambda f: np.save(f / "d.npy", np.zeros((2, 3, 2), np.int64)),
            r"d\.npy holds int64 of shape",
        ),
        (
            lambda f: np.save(f / "d.npy", np.zeros(4, np.uint8)),
            r"d\.npy holds uint8 of shape \(4,\)",
        ),
        (lambda f: (f / "d.npy").write_bytes(b"\x93NUMPY"), r"d\.npy is damaged"),
        (
            lambda f: (f / "d.npy").write_bytes(b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f4'(("),
            r"d\.npy is damaged",
        ),
        (
            lambda f: (f / "d.npy").write_bytes((f / "a.npy").read_bytes()[:-1]),
            r"d\.npy is damaged",
        ),
        (
            lambda f: np.save(f / "d.npy", np.array([object()]), allow_pickle=True),
            r"d\.npy is damaged or not",
        ),
        (lambda f: [path.unlink() for path in f.iterdir()], "holds no .npy files"),
    ],
)
def test_shards_that_cannot_be_used_are_named(folder, make, words):
    make(folder)
    with pytest.raises(ValueError, match=words):
        Shards(str(folder)).setup()


@pytest.mark.parametrize(
    ("value", "words"), [(float("nan"), "1 NaN"), (2.0, "values from 0 to 2"), (-1.0, "-1 to 0")]
)
def test_a_bad_pixel_is_found_when_it_is_read(tmp_path, value, words):
    x = np.zeros((20, 4), np.float32)
    x[13, 2] = value
    np.save(tmp_path / "x.npy", x)
    rows = Rows([tmp_path / "x.npy"])
    rows[:13]

    with pytest.raises(ValueError, match=rf"x\.npy holds.*{words}"):
        rows[10:15]


LIMITED = """
    import resource, sys
    import torch
    from pytorch_lightning import Trainer
    from gendae import Images, Shards, VariationalEMRule, deep_autoencoder

    data = {"Shards": Shards, "Images": Images}[sys.argv[1]](sys.argv[2], batch_size=100)
    limit = int(sys.argv[3]) * 2**20
    rule = VariationalEMRule(deep_autoencoder([784, 32, 16]))
    options = dict(
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        accelerator="cpu",
    )
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.rand(200, 784)), 100)
    Trainer(max_epochs=1, **options).fit(rule, loader)

    line = next(l for l in open("/proc/self/status") if l.startswith("VmData"))
    used = int(line.split()[1]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (used + limit, used + limit))

    trainer = Trainer(max_epochs=1, limit_train_batches=20, **options)
    trainer.fit(rule, data)
    print("updates", trainer.global_step)
"""


def train_within(kind, path, limit_mb):
    script = textwrap.dedent(LIMITED)
    command = [sys.executable, "-W", "ignore", "-c", script, kind, str(path), str(limit_mb)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.skipif(
    sys.platform != "linux", reason="RLIMIT_DATA counts mapped memory on Linux only"
)
def test_training_needs_less_memory_than_the_data(tmp_path):
    """A 940 MB array under a limit of 320 MB above an idle process: only the mapped one trains.

    Training itself needs 120 MB, and up to 170 where many threads allocate. The file is sparse:
    it takes no room on disk, and reads as black images.
    """
    array = np.lib.format.open_memmap(
        tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=(300_000, 784)
    )
    array[:1000] = np.random.default_rng(0).random((1000, 784), np.float32)
    del array

    mapped = train_within("Shards", tmp_path / "x.npy", 320)
    assert mapped.returncode == 0, mapped.stderr[-1500:]
    assert "updates 20" in mapped.stdout

    held = train_within("Images", tmp_path / "x.npy", 320)
    assert held.returncode != 0
    assert "emory" in held.stderr or "alloc" in held.stderr


@pytest.mark.parametrize(
    ("stored", "given", "shape"),
    [
        ((50, 5, 5), None, (5, 5)),
        ((50, 12), [3, 4], (3, 4)),
        ((50, 3, 5, 4), None, (3, 5, 4)),
        ((50, 5, 4, 3), [5, 4], (3, 5, 4)),
        ((50, 24), [3, 4, 2], (3, 4, 2)),
        ((50, 48), None, (3, 4, 4)),
    ],
)
def test_images_and_shards_agree_on_what_a_file_holds(tmp_path, stored, given, shape):
    x = np.random.default_rng(0).random(stored, np.float32)
    np.save(tmp_path / "x.npy", x)
    shares = {"valid_fraction": 0.2, "test_fraction": 0.1, "color": None}
    if len(shape) == 3:
        shares["color"] = "rgb"
    if stored[-1] == 3:
        x = np.moveaxis(x, 3, 1)
    sets = [cls(str(tmp_path / "x.npy"), shape=given, **shares) for cls in (Images, Shards)]

    rows = []
    for data in sets:
        splits = [data.split(name).x for name in ("train", "valid", "test")]
        assert [len(part) for part in splits] == [35, 10, 5]
        assert data.shape == shape
        with pytest.raises(ValueError, match=f"does not make {x[0].size} pixels"):
            type(data)(str(tmp_path / "x.npy"), shape=[7, 7], color=shares["color"]).setup()
        rows.append(torch.cat(splits).sort(0).values)

    assert torch.equal(*rows)
    assert torch.equal(rows[0], torch.from_numpy(x.reshape(50, -1)).sort(0).values)


@pytest.mark.parametrize("size", [0, 100, 128 + 8 * 64 * 4 + 3], ids=str)
def test_a_shard_that_is_cut_short_meanwhile_is_named(tmp_path, size):
    """A map of such a file would end the process by a signal."""
    np.save(tmp_path / "a.npy", np.zeros((4000, 64), np.float32))
    rows = Rows([tmp_path / "a.npy"])
    assert rows[torch.tensor([3999, 0])].shape == (2, 64)

    os.truncate(tmp_path / "a.npy", size)
    with pytest.raises(ValueError, match=r"a\.npy is damaged or cut short"):
        rows[torch.tensor([0, 3999])]


def test_a_shard_that_vanishes_meanwhile_is_named(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 64), np.float32))
    rows = Rows([tmp_path / "a.npy"])
    (tmp_path / "a.npy").unlink()

    with pytest.raises(FileNotFoundError, match=r"a\.npy"):
        rows[torch.tensor([0])]


@pytest.mark.parametrize(
    "shape", ["(2, 4, 3, 4)", "(-2, -8)", "(True, 16)", "(1, 1, 1, 16)", str((1,) * 80)]
)
def test_a_shape_that_is_none_of_images_is_refused(tmp_path, shape):
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((2, 48), np.uint8))
    content = path.read_bytes().replace(b"(2, 48)", shape.encode())
    extra = len(shape) - len("(2, 48)")
    size = (int.from_bytes(content[8:10], "little") + extra).to_bytes(2, "little")
    path.write_bytes(content[:8] + size + content[10:])

    with pytest.raises(ValueError, match=r"x\.npy"):
        Rows([path])


def test_bytes_that_are_not_0_to_255_are_refused(tmp_path):
    """Black and white as 0 and 1 became black and nearly black."""
    path = tmp_path / "x.npy"
    np.save(path, np.eye(9, dtype=np.uint8))
    with pytest.raises(ValueError, match="none of those compared is above 1"):
        Shards(str(path)).setup()


def test_large_rows_are_read_in_small_numbers(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((20, 16)))
    monkeypatch.setattr(shards, "MOST_PIXELS", 64)
    data = Shards(str(tmp_path / "x.npy"))

    assert len(data.split("train").x) == 4
    assert len(data.rows("train").x) == 16
    assert len(Rows(data.files()).sample()["0"]) == 4


def test_columns_one_after_the_other_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((64, 10), np.float32).T)
    with pytest.raises(ValueError, match="Fortran order"):
        Rows([tmp_path / "a.npy"])


def test_rows_are_those_of_the_array_in_any_order(tmp_path):
    array = np.random.default_rng(0).random((50, 3, 4))
    np.save(tmp_path / "a.npy", array)
    index = torch.tensor([7, 8, 9, 3, 3, 49, 0])

    expected = torch.from_numpy(array[index.numpy()].reshape(7, 12)).float()
    assert torch.equal(Rows([tmp_path / "a.npy"])[index], expected)
