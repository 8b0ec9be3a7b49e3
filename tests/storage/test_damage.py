"""Damaged and evil files end in one line that names the file; nothing is loaded, no code runs."""

import copy
import hashlib
import io
import json
import os
import pickle
import shutil
import zipfile
from itertools import chain, product
from pathlib import Path

import pytest
import torch

from gendae import load, save
from gendae.models.architectures import deep_autoencoder
from gendae.rules.targetprop import TargetPropRule
from gendae.storage import model_file, shipped
from gendae.storage.archive import WholeFileIO
from gendae.storage.sealed import END, END_SIZE, SEALED, CheckpointError, read, seal
from tests.rules.test_base import trainer
from tests.training.resuming import FewDigits, quiet

SIZES = [64, 12, 6]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A folder with m.ckpt and m.safetensors of one trained stack."""
    quiet()
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("good")
    rule = TargetPropRule(deep_autoencoder(SIZES))
    run = trainer()
    run.fit(rule, FewDigits())
    run.save_checkpoint(folder / "m.ckpt")
    save(rule.stack, folder / "m.safetensors")

    return folder


def resume(path, rule=None):
    """Take a file as the checkpoint of a fit; where that fails, the rule must stay as it is."""
    rule = rule or TargetPropRule(deep_autoencoder(SIZES))
    before = copy.deepcopy(rule.state_dict())

    try:
        trainer(max_epochs=2).fit(rule, FewDigits(), ckpt_path=str(path))
    except (ValueError, FileNotFoundError):
        after = rule.state_dict()
        assert all(torch.equal(before[k], v) for k, v in after.items()), "half loaded"
        raise


def refused(call, path, words="", kind=CheckpointError):
    with pytest.raises(kind) as caught:
        call(path)

    message = str(caught.value)
    assert Path(path).name in message and words in message
    assert "\n" not in message and "weights_only" not in message
    if kind is CheckpointError:
        sent = pickle.loads(pickle.dumps(caught.value))  # as it travels between processes
        for error in (caught.value, sent):
            assert error.path == Path(path)
            assert str(error) == message == f"{error.path}: {error.reason}"


def flip(content, at):
    content = bytearray(content)
    content[at] ^= 0x10
    return bytes(content)


def inside(content, name):
    """Where an entry of a ZIP archive has its middle byte."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entry = next(i for i in archive.infolist() if i.filename.endswith(name))

    at = entry.header_offset + 26
    of_name = int.from_bytes(content[at : at + 2], "little")
    of_extra = int.from_bytes(content[at + 2 : at + 4], "little")

    return at + 4 + of_name + of_extra + entry.file_size // 2


def setting(content):
    if b"steps" in content:
        return content.index(b"steps") + 9
    return content.index(b"sigma")


def another_architecture(content):
    return content.replace(b"sigmoid", b"softmax", 1).replace(b"tanh", b"tanj", 1)


UPDATES = b'\\"updates\\": '
#: Damage to the bytes of any file.
BYTES = {
    "empty": lambda c: b"",
    "cut in the header": lambda c: c[:20],
    "cut in the middle": lambda c: c[: len(c) // 2],
    "without its last byte": lambda c: c[:-1],
    "with a tail of zeros": lambda c: c[:-500] + bytes(500),
    "extended": lambda c: c + b"more",
    "twice": lambda c: c + c,
    "text": lambda c: b"no model here\n" * 100,
    "HTML": lambda c: b"<html><body>404: not found</body></html>" * 50,
    "random": lambda c: torch.randint(0, 256, (5000,), dtype=torch.uint8).numpy().tobytes(),
    "zeros": lambda c: bytes(len(c)),
    "without its first byte": lambda c: c[1:],
}
CKPT = {
    "flipped in a tensor": lambda c: flip(c, inside(c, "data/0")),
    "flipped in the pickle": lambda c: flip(c, inside(c, "data.pkl")),
    # A time: no reader looks at it.
    "flipped in the directory": lambda c: flip(c, c.rindex(b"PK\x01\x02") + 14),
    "flipped in the end": lambda c: flip(c, c.rindex(END) + 20),
    "flipped in the seal": lambda c: flip(c, len(c) - 70),
    "flipped in the checksum": lambda c: flip(c, len(c) - 3),
}
SAFETENSORS = {
    "flipped in a tensor": lambda c: flip(c, len(c) - 300),
    "flipped in the length": lambda c: flip(c, 0),
    "flipped in a setting": lambda c: flip(c, setting(c)),
    "flipped in the architecture": another_architecture,
    "another number in the description": lambda c: c.replace(UPDATES + b"4", UPDATES + b"5"),
    "flipped in a name": lambda c: flip(c, c.rindex(b'"pairs.0.f.weight"') + 3),
    "a shape turned": lambda c: c.replace(b"[12,64]", b"[64,12]", 1),
    "a type changed": lambda c: c.replace(b'"F32"', b'"I32"', 1),
}


DAMAGE = {"m.ckpt": BYTES | CKPT, "m.safetensors": BYTES | SAFETENSORS}
CASES = chain.from_iterable(product([name], kinds) for name, kinds in DAMAGE.items())


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_damaged_files(good, tmp_path, name, kind):
    content = (good / name).read_bytes()
    damaged = DAMAGE[name][kind](content)

    assert damaged != content

    path = tmp_path / name
    path.write_bytes(damaged)

    refused(load, path)
    if name == "m.ckpt":
        refused(resume, path)
        refused(TargetPropRule.load_from_checkpoint, path)


def test_no_flipped_byte_of_a_ckpt_goes_unnoticed(good, tmp_path):
    """300 places of the file, and the archive's directory; half of them are in no entry's CRC."""
    content = (good / "m.ckpt").read_bytes()
    path = tmp_path / "m.ckpt"
    directory = content.index(b"PK\x01\x02")
    places = {*range(0, len(content), len(content) // 300), *range(directory, len(content), 7)}

    for at in places:
        path.write_bytes(flip(content, at))
        with pytest.raises(CheckpointError):
            read(path)


def test_archives_of_others_have_the_checksums_of_their_entries_compared(good, tmp_path):
    """Without the seal, as Lightning writes them: loaded unless an entry or the end is damaged."""
    content = (good / "m.ckpt").read_bytes()
    path = tmp_path / "m.ckpt"
    plain = content[: -SEALED - 2] + b"\0\0"

    assert plain[-END_SIZE:][:4] == END and seal(plain) == content

    path.write_bytes(plain)
    assert torch.equal(load(path).pairs[0].f.weight, load(good / "m.ckpt").pairs[0].f.weight)

    for damaged in (flip(plain, inside(plain, "data/0")), plain + b"more", plain[:-1]):
        path.write_bytes(damaged)
        refused(load, path)


# -- code, places that are no files, and swapped models -------------------------------------------


class Evil:
    """Unpickling it would make a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def save_in_the_old_format(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


RUNS_CODE = "mkdir, which could run code"


@pytest.mark.parametrize("place", ["gendae", "state_dict", "optimizer_states", "callbacks"])
@pytest.mark.parametrize(
    ("write", "words"),
    [
        (WholeFileIO().save_checkpoint, RUNS_CODE),
        (torch.save, RUNS_CODE),
        (save_in_the_old_format, "not a Lightning checkpoint"),
    ],
    ids=["sealed", "plain", "of the old format"],
)
def test_a_pickle_that_would_run_code_is_refused(good, tmp_path, place, write, words):
    content = read(good / "m.ckpt")
    path = tmp_path / "m.ckpt"
    owned = tmp_path / "owned"
    content[place] = Evil(owned)
    write(content, path)

    refused(load, path, words)
    refused(resume, path, words)
    refused(TargetPropRule.load_from_checkpoint, path, words)

    rule = TargetPropRule(deep_autoencoder(SIZES))
    with pytest.raises(CheckpointError):  # not even where the user asks for it
        trainer().fit(rule, FewDigits(), ckpt_path=str(path), weights_only=False)

    shutil.copy(path, tmp_path / "m.safetensors")
    refused(load, tmp_path / "m.safetensors")
    assert not owned.exists()

    torch.load(path, weights_only=False)  # the file is what it is said to be
    assert owned.exists()


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("call", [load, resume])
def test_what_is_no_file(tmp_path, suffix, call):
    names = ("folder", "pipe", "link", "loop")
    folder, pipe, link, loop = (tmp_path / f"{name}{suffix}" for name in names)
    folder.mkdir()
    os.mkfifo(pipe)
    link.symlink_to(tmp_path / "nothing")
    loop.symlink_to(loop)

    refused(call, folder, "a folder")
    refused(call, pipe, "not a regular file")
    refused(call, link, "link", FileNotFoundError)
    refused(call, loop, "link", FileNotFoundError)
    refused(call, tmp_path / f"none{suffix}", "there is no such file", FileNotFoundError)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_what_may_not_be_read(good, tmp_path, suffix):
    path = Path(shutil.copy(good / f"m{suffix}", tmp_path))
    path.chmod(0)
    refused(load, path, "ermission denied")


def test_a_shipped_model_must_be_the_one_in_the_manifest(good, tmp_path, monkeypatch):
    """Another model of the same name and shape is noticed; so is a lost manifest."""
    monkeypatch.setattr(shipped, "ROOTS", [tmp_path])
    monkeypatch.setattr(model_file, "MODELS", "*.safetensors")
    path = tmp_path / "ours.safetensors"
    manifest = tmp_path / "manifest.json"
    shutil.copy(good / "m.safetensors", path)

    refused(load_as(path), manifest)

    entry = {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    manifest.write_text(json.dumps([entry]))

    assert load("ours").sizes == SIZES

    save(deep_autoencoder(SIZES), path)
    refused(load_as(path), path, "not the file that was shipped")
    assert load(path).sizes == SIZES  # by its path it is a file like any other
    assert not load(path).prior.fitted

    for text in ("", "[1]", '[{"file": 3}]', "[]"):
        manifest.write_text(text)
        with pytest.raises(CheckpointError):
            load("ours")


def load_as(path):
    return lambda _: load(path.stem)
