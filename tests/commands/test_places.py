"""What a command line names, and the streams that users and machines leave to it."""

import errno
import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gendae import checks, cli
from gendae.commands import parser, streams
from gendae.commands.places import OUTPUTS
from gendae.metrics.quality import frechet_distance
from gendae.training.fit import new_run_folder
from tests.commands.test_cli import DIGITS, gendae, model, one_line  # noqa: F401 - a fixture
from tests.commands.test_compare import write
from tests.storage.test_inputs import spelled

# -- outputs and inputs ---------------------------------------------------------------------------

#: Commands that write a file that an option names, with that option and every other of text.
PAIRS = [
    (command, output, read)
    for command in sorted(set(parser.COMMANDS) - set(parser.TRAINING))
    for output in OUTPUTS
    for read in parser.signature(parser.head(command))
    if output in {argument.name for argument in parser.signature(parser.head(command))}
    if "str" in read.annotation and read.name not in (*OUTPUTS, "fill")  # which is written, too
]


def line(command, values):
    """A command line; arguments without default are given, of no matter what."""
    words = [command]
    for argument in parser.signature(parser.head(command)):
        value = values.get(argument.name, "none" if argument.needed else None)
        if value is not None and not argument.positional:
            words.append(f"--{argument.name.replace('_', '-')}")
        if value is not None:
            words.append(str(value))

    return words


@pytest.mark.parametrize(
    ("command", "output", "read"), PAIRS, ids=[f"{c} {o} {r.name}" for c, o, r in PAIRS]
)
def test_no_output_is_an_input(tmp_path, capsys, command, output, read):
    path = tmp_path / "file.png"
    path.write_bytes(b"content")

    for name in spelled(path):
        value = f"name={path}" if read.annotation.startswith("list") else path
        assert gendae(*line(command, {output: name, read.name: value})) == 2
        assert f"--{output} {name} is a file that this command reads" in one_line(capsys)

    assert path.read_bytes() == b"content"


@pytest.mark.parametrize("option", ["--sampler.file", "--sampler.file="])
def test_options_of_sections_name_inputs_too(tmp_path, capsys, option):
    path = tmp_path / "x.npz"
    path.write_bytes(b"content")
    words = [option, str(path)] if not option.endswith("=") else [option + str(path)]

    assert gendae("sample", "none", *words, "--out", path) == 2
    assert "is a file that this command reads" in one_line(capsys)


def test_what_is_read_on_the_way_is_not_written_over(model, tmp_path, capsys):  # noqa: F811
    """A file in the folder of images; the model, by a link of a name that is made."""
    images = tmp_path / "images"
    images.mkdir()
    assert gendae("inpaint", model, "--n", 1, "--out", tmp_path / "x.png") == 0
    from PIL import Image

    Image.fromarray(np.zeros((8, 8), np.uint8)).save(images / "1.png")
    before = (images / "1.png").read_bytes()
    capsys.readouterr()

    assert gendae("inpaint", model, "--data", images, "--out", images / "1.png") == 2
    assert "is a file that this command reads" in one_line(capsys)
    assert (images / "1.png").read_bytes() == before

    (tmp_path / "c-autocorrelation.png").symlink_to(model)
    before = Path(model).read_bytes()
    assert gendae("chain", model, "--n", 2, "--steps", 2, "--out", tmp_path / "c.png") == 2
    assert Path(model).read_bytes() == before


@pytest.mark.parametrize("role", ["--config", "--rules"])
def test_a_comparison_does_not_replace_its_configurations(tmp_path, capsys, role):
    out = tmp_path / "out"
    out.mkdir()
    own = write(out, "BackpropRule.yaml")
    before = own.read_bytes()
    config = own if role == "--config" else write(tmp_path)
    rule = "BackpropRule" if role == "--config" else own

    assert gendae("compare", "--config", config, "--rules", rule, "--out", out) == 2
    assert "is a file that this command reads" in one_line(capsys)
    assert own.read_bytes() == before


#: 9^9 values in 400 bytes.
ALIASES = "a0: &a0 [" + ", ".join("x" * 9) + "]\n"
ALIASES += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9))

# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["inpaint", "mnist-variational-em", "--root", "/nonexistent"], "/nonexistent"),
        (["evaluate", "mnist-variational-em", "--root", ""], "root=''"),
        (["spectrum", "mnist-kl-parzen", "--root", "~nouser"], "no such home"),
        (["inpaint", "digits-variational-em", "--root", "."], "trained on Digits"),
        (["evaluate", "digits-variational-em", "--data", "x.npy", "--root", "."], "give one"),
        (["inpaint", "digits-variational-em", "--data", "x.npy", "--root", "."], "give one"),
        (["export", "x.ckpt", "--out", "y.safetensors", "--root", "."], "--choose-prior"),
        (["evaluate", "digits-variational-em", "--json", ""], "--json=''"),
        (["sample", "digits-variational-em", "--out", "~nouser/x.npz"], "no such home"),
        (["sample", "~nouser/x.ckpt"], "no such home"),
        (["sample", ""], "model=''"),
        (["inpaint", "digits-variational-em", "--data", "~nouser/x.npy"], "no such home"),
        (["inpaint", "digits-variational-em", "--mask", "~nouser/x.png"], "no such home"),
        (["fit", "--config", DIGITS, "--ckpt_path", ""], "--ckpt_path=''"),
        (["fit", "--config", DIGITS, "--ckpt_path", "~nouser/x.ckpt"], "no such home"),
        (["fit", "--config", DIGITS, "--trainer.default_root_dir", ""], "default_root_dir=''"),
        (["fit", "--config", DIGITS, "--data.seed", 2**70], "seed=1180591620717411303424"),
        (["sample", "digits-variational-em", "--n", 10**12], "n=1000000000000"),
        (["sample", "digits-variational-em", "--sampler.rounds", 10**12], "rounds=1000000000000"),
        (["chain", "digits-variational-em", "--steps", 10**12], "--steps=1000000000000"),
        (["sample", "digits-variational-em", "--device", "hpu"], "device='hpu'"),
        (["fit", "--config", DIGITS, "--trainer.accelerator", "tpu"], "error: "),
        (["sample", "digits-variational-em", "--device", "cpu:7"], "device='cpu:7'"),
        (["sample", "digits-variational-em", "--device", ""], "device=''"),
        (["sample", "digits-variational-em", "--out", "a\0b.npz"], r"--out='a\x00b.npz': no file"),
        (["sample", "\ud800.ckpt"], "no file can have this name"),
        (["fit", "--config", DIGITS, "--trainer.default_root_dir", "x.npy"], "x.npy is a file"),
        (["export", "x.ckpt", "--out", "y.safetensors", "--n", 0], "--n=0"),
        (
            ["compare", "--config", DIGITS, "--rules", "x", "--out", "o", "--seeds", 2**32],
            "--seeds",
        ),
        (["fit", "--config", "pipe"], "pipe: not a regular file"),
        (["fit", "--config=pipe"], "pipe: not a regular file"),
        (["fit", "--config", DIGITS, "--model.stack", "pipe"], "pipe: not a regular file"),
        (["fit", "--config", DIGITS, "--data", "pipe"], "pipe: not a regular file"),
        (["compare", "--config", "pipe", "--rules", "x", "--out", "o"], "not a regular file"),
        (["compare", "--config", DIGITS, "--rules", "pipe", "--out", "o"], "not a regular file"),
        (["fit", "--config", "aliases.yaml"], "aliases.yaml is not a YAML file: it holds more"),
        (["compare", "--config", "aliases.yaml", "--rules", "x", "--out", "o"], "it holds more"),
    ],
)
def test_what_is_named_binds(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.npy").write_bytes(b"")
    (tmp_path / "x.ckpt").write_bytes(b"")
    (tmp_path / "aliases.yaml").write_text(ALIASES)
    os.mkfifo(tmp_path / "pipe")
    before = sorted(os.listdir(tmp_path))

    assert gendae(*words) == 2
    assert said in one_line(capsys)
    assert sorted(os.listdir(tmp_path)) == before


def test_without_a_home_the_home_folder_is_an_error_in_one_line(monkeypatch):
    def no_home(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", no_home)
    with pytest.raises(ValueError, match="there is no such home folder"):
        checks.path("path", "~/x")


@pytest.mark.parametrize("name", ["²", "٣", "9" * 200, "-1", "run", "0007.txt", "0x1"])
def test_names_that_are_no_number_are_no_runs(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / "0007").mkdir()
    assert new_run_folder(tmp_path).name == "0008"


# -- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), 2),
        (np.zeros, 2),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to .."), 2),
        (RuntimeError("a defect"), None),
    ],
)
def test_too_little_memory_is_said_in_one_line(monkeypatch, capsys, error, code):
    def fail(arguments):
        if error is np.zeros:
            np.zeros(2**62, np.uint8)
        raise error

    monkeypatch.setattr(cli, "run", fail)
    if code is None:
        with pytest.raises(RuntimeError):
            cli.main([])
    else:
        assert cli.main([]) == code
        assert "the memory does not suffice" in one_line(capsys)


@pytest.mark.parametrize("seed", [0, 2**50, 2**63 - 1])
def test_every_seed_that_is_taken_gives_an_order(seed):
    from gendae import Digits

    data = Digits(seed=seed)
    assert next(iter(data.train_dataloader())).x.shape == (100, 64)


def test_the_distance_of_a_set_to_itself_is_not_below_zero():
    import torch

    for width in (2, 5, 20):
        x = torch.randn(50, width).relu()
        assert frechet_distance(x, x) >= 0.0


# -- streams --------------------------------------------------------------------------------------


class Failing(io.StringIO):
    def __init__(self, number, descriptor):
        super().__init__()
        self.number = number
        self.descriptor = descriptor

    def write(self, text):
        raise OSError(self.number, os.strerror(self.number))

    def fileno(self):
        return self.descriptor


@pytest.mark.parametrize(("number", "code"), [(errno.EPIPE, 0), (errno.EIO, 0), (errno.ENOSPC, 2)])
def test_a_command_outlives_its_reader_but_not_a_full_disk(
    tmp_path, monkeypatch, capsys, number, code
):
    with open(tmp_path / "out", "w") as out:
        monkeypatch.setattr(sys, "stdout", Failing(number, out.fileno()))
        assert cli.main(["list"]) == code

    if code:
        assert "the output was not written: No space left" in one_line(capsys)


def test_errors_that_nobody_can_read_change_no_exit_code(tmp_path, monkeypatch):
    with open(tmp_path / "err", "w") as err:
        monkeypatch.setattr(sys, "stderr", Failing(errno.ENOSPC, err.fileno()))
        assert cli.main(["nonsense"]) == 2


def test_text_that_the_encoding_lacks_is_escaped(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
    with streams.usable():
        print("±", os.fsdecode(b"\xff"), flush=True)

    assert raw.getvalue() == b"\\xb1 \\udcff\n"


CLOSED = """
import os, sys
from gendae.cli import main
code = main(["--version"])
from gendae.commands import streams
with streams.usable():
    print("nobody reads")
    print(input.__name__, file=sys.stderr)
    sys.exit(code or os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY))
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_file_does_not_take_the_place_of_a_closed_stream(tmp_path, closed):
    words = [sys.executable, "-c", CLOSED, str(tmp_path / "file")]
    done = subprocess.run(
        ["sh", "-c", f"exec {shlex.join(words)} {closed}"], capture_output=True, check=False
    )

    assert done.returncode > 2  # the number that the file got
    assert done.stderr.strip() in (b"", b"input")
