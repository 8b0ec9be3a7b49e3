"""The command line as a user meets it, on small models; errors are one line and exit code 2."""

import functools
import inspect
import json
import re
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from gendae import __all__, cli, load, plots, save
from gendae.commands import fit as fit_commands
from gendae.commands import inpaint
from gendae.commands.parser import COMMANDS, TRAINING, parser
from gendae.models.architectures import deep_autoencoder
from gendae.sampling.samplers import SAMPLERS
from gendae.storage.model_file import shipped
from gendae.training.fit import new_run_folder
from tests.conftest import small_stack

ROOT = Path(__file__).parents[2]
DIGITS = str(ROOT / "configs/digits-variational-em.yaml")


@pytest.fixture
def model(tmp_path, digits):
    """A small digits model, untrained but whole."""
    stack = small_stack([64, 20, 8])
    stack.prior.fit(stack.encode(digits.split("train").x)[-1].detach())
    stack.facts = {
        "dataset": {"type": "Digits", "batch_size": 100, "seed": 0},
        "shape": [8, 8],
        "seed": 0,
    }

    return str(save(stack, tmp_path / "m.safetensors"))


def gendae(*arguments):
    """Exit code of the command, in this process."""
    try:
        return cli.main([str(a) for a in arguments])
    except SystemExit as stop:
        return stop.code


def one_line(capsys):
    """The one line of an error, beside what Lightning says of seeds."""
    lines = capsys.readouterr().err.strip().splitlines()
    (line,) = [line for line in lines if not line.startswith(("Seed set", "/"))]

    assert line.startswith("gendae: error: ")
    return line


SMALL = ["--model.stack.sizes", "[64, 20, 8]"]
EPOCHS = ["--trainer.max_epochs", "2", "--trainer.check_val_every_n_epoch", "1"]
QUICK = ["--trainer.enable_progress_bar", "false", "--parzen.n", "50"]


def fit(folder, *arguments):
    root = ["--trainer.default_root_dir", folder]
    return gendae("fit", "--config", DIGITS, *root, *EPOCHS, *QUICK, *SMALL, *arguments)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    assert fit(folder) == 0
    return folder / "0001"


def test_fit_writes_a_numbered_run_folder(run):
    names = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()}
    assert names == {
        "config.yaml",
        "metrics.csv",
        "samples.png",
        "pictures/samples_0002.png",
        "pictures/reconstructions_0002.png",
        "pictures/inpainting_0002.png",
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
    }

    newest = run / "pictures/samples_0002.png"
    assert (run / "samples.png").read_bytes() == newest.read_bytes()

    header = (run / "metrics.csv").read_text().splitlines()[0]
    for column in ("loss/f_1", "loss/g_2", "val/parzen_ll", "val/reconstruction_2"):
        assert column in header

    stack = load(run / "checkpoints/best.ckpt")
    assert stack.prior.fitted
    assert stack.facts["command"].startswith("gendae fit --config")
    assert stack.sizes == [64, 20, 8]


def test_a_second_fit_gets_a_new_folder_and_resumes(run, capsys):
    last = run / "checkpoints/last.ckpt"
    before = last.read_bytes()

    assert fit(run.parent, "--ckpt_path", last, "--trainer.max_epochs", "3") == 0

    assert "0002" in capsys.readouterr().out
    assert last.read_bytes() == before
    assert load(run.parent / "0002/checkpoints/last.ckpt").facts["epochs"] == 3


def test_the_configuration_of_a_run_makes_another_run(run):
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    folders = len(list(run.parent.iterdir()))
    assert gendae("fit", "--config", run / "config.yaml") == 0
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    assert len(list(run.parent.iterdir())) == folders + 1


def test_a_shipped_configuration_is_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = ["--trainer.limit_train_batches", "1", "--trainer.max_epochs", "1"]
    for number, name in enumerate(["digits-kl", "digits-kl.yaml"], 1):
        (line,) = cli.run(["fit", "--config", name, *short, "--trainer.logger", "false"])
        assert line == f"run folder: runs/000{number}"

    Path("digits-kl").write_text("trainer: {}")  # one's own file of this name comes first
    assert cli.main(["fit", "--config=digits-kl", *short]) == 2


def test_test_and_validate_leave_no_folder(run, capsys):
    folders = sorted(run.parent.iterdir())
    arguments = ["--config", run / "config.yaml", "--ckpt_path", run / "checkpoints/best.ckpt"]
    root = ["--trainer.default_root_dir", run.parent]

    for command in ("test", "validate"):
        assert gendae(command, *arguments, *root) == 0

    said = capsys.readouterr()
    assert "test/reconstruction_1" in said.out
    assert f"gendae evaluate {run}/checkpoints/best.ckpt" in said.err
    assert sorted(run.parent.iterdir()) == folders


def test_export_and_what_it_exports(run, tmp_path, capsys):
    out = tmp_path / "m.safetensors"
    assert gendae("export", run, "--out", out) == 0

    a = load(out)
    b = load(run / "checkpoints/best.ckpt")

    assert torch.equal(a.pairs[0].f.weight, b.pairs[0].f.weight)

    before = out.read_bytes()
    assert gendae("export", run, "--out", out) == 2
    assert "exists already" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert gendae("info", out) == 0

    printed = capsys.readouterr().out
    for word in (
        "64 - 20 softplus - 8 sigmoid",
        "GaussianPrior",
        "Digits(batch_size=100, seed=0)",
    ):
        assert word in printed


@pytest.mark.parametrize(
    ("logger", "pattern"),
    [
        ("TensorBoardLogger --trainer.logger.save_dir .", "*tfevents*"),
        ("WandbLogger --trainer.logger.offline true", "offline-run-*"),
    ],
)
def test_other_loggers_write_beside_the_csv_log(tmp_path, monkeypatch, logger, pattern):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_SILENT", "true")
    arguments = ["--trainer.max_epochs", "1", "--trainer.logger", *logger.split()]

    assert fit(tmp_path / "runs", *arguments) == 0

    assert (tmp_path / "runs/0001/metrics.csv").is_file()
    assert list((tmp_path / "runs/0001").rglob(pattern))
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]


def test_new_run_folders_never_meet(tmp_path):
    (tmp_path / "0007").mkdir()
    assert [new_run_folder(tmp_path).name for _ in range(2)] == ["0008", "0009"]


@pytest.mark.parametrize("suffix", [".png", ".npz", ".npy"])
@pytest.mark.parametrize("sampler", ["generate", "ancestral", "chain"])
def test_sample(model, tmp_path, suffix, sampler):
    outs = [tmp_path / f"{name}{suffix}" for name in "ab"]
    options = ["--n", 9, "--sampler", sampler, "--seed", 3]
    for out in outs:
        assert gendae("sample", model, *options, "--out", out) == 0

    assert outs[0].read_bytes() == outs[1].read_bytes() or suffix == ".npz"
    if suffix == ".png":
        assert Image.open(outs[0]).size[0] > 3 * 8
        return

    array = np.load(outs[0])
    if suffix == ".npz":
        array = array["samples"]

    assert array.shape == (9, 64)
    assert array.dtype == np.float32
    assert 0 <= array.min() <= array.max() <= 1


@pytest.mark.parametrize("data", [[], ["--data", "own.npy"]])
@pytest.mark.parametrize("mask", ["left", "right", "top", "bottom", "random", "mask.png"])
def test_inpaint_with_names_files_and_own_images(
    model, tmp_path, monkeypatch, capsys, digits, mask, data
):
    monkeypatch.chdir(tmp_path)
    Image.linear_gradient("L").resize((8, 8)).point(lambda grey: 255 * (grey > 99)).save(
        "mask.png"
    )
    np.save("own.npy", digits.split("test").x[:4].numpy())

    assert gendae("inpaint", model, "--mask", mask, "--n", 2, "--out", "out.png", *data) == 0

    assert (tmp_path / "out.png").stat().st_size > 100
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "originals" in line)
    missing, whole = (float(dB) for dB in re.findall(r"PSNR (\S+) dB", line))
    assert 2 < missing < whole < 30


@pytest.mark.parametrize("data", [[], ["--data", "own.npz"]])
def test_evaluate_prints_a_table_and_writes_json(
    model, tmp_path, monkeypatch, capsys, digits, data
):
    monkeypatch.chdir(tmp_path)
    np.savez("own.npz", x=digits.split("train").x[:200].numpy())

    assert gendae("evaluate", model, "--n", 100, "--json", "e.json", *data) == 0

    result = json.loads(Path("e.json").read_text())
    for key in ("parzen_ll", "parzen_se", "sigma", "ancestral_ll"):
        assert isinstance(result[key], float)
    assert len(result["log_joint"]) == 21

    printed = capsys.readouterr().out
    for name in ("model", "ancestral", "training images", "k-means centroids", "mean image"):
        assert name in printed
        assert name in result["parzen"]

    ancestral = ["--sampler", "ancestral", "--json", "a.json"]
    assert gendae("evaluate", model, "--n", 100, *ancestral, *data) == 0
    rows = json.loads(Path("a.json").read_text())["parzen"]
    assert rows["model"] == rows["ancestral"] != result["parzen"]["model"]


def bad_files(folder, model):
    """The files that the commands below name."""
    np.save(folder / "wide.npy", np.zeros((20, 65)))
    np.save(folder / "bytes.npy", np.full((20, 64), 255.0))
    np.save(folder / "nan.npy", np.full((20, 64), np.nan))
    (folder / "cut.safetensors").write_bytes(Path(model).read_bytes()[:1000])
    Image.new("L", (9, 9)).save(folder / "mask.png")
    save(deep_autoencoder([64, 8], hidden_f=[10]), folder / "mlp.safetensors")
    save(deep_autoencoder([64, 8, 4]), folder / "plain.safetensors")

    elsewhere = small_stack([784, 8])
    elsewhere.facts = {"dataset": {"type": "MNIST", "download": False}, "shape": [28, 28]}
    save(elsewhere, folder / "elsewhere.safetensors")


FIT = f"fit --config {DIGITS} --trainer.default_root_dir runs"
KL = f"fit --config {ROOT}/configs/digits-kl.yaml"
TOYS = KL.replace("digits-kl", "toy-kl")
FEW = KL.replace("digits-kl", "mnist-joint-semi")
BITS = f"fit --config {ROOT}/configs/mnist-dtp-sign.yaml --model gendae.BackpropRule"
NO_MNIST = "--data MNIST --data.root none --data.download false"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("sample no-such-model", "no model 'no-such-model'"),
        ("sample cut.safetensors", "damaged"),
        ("sample m.safetensors --sampler gibbs", "generate, ancestral, chain, joint"),
        ("sample m.safetensors --n 0", "n=0"),
        ("sample m.safetensors --n many", "many"),
        ("sample m.safetensors --out x.jpg", ".png, .npz, .npy"),
        ("inpaint m.safetensors --mask middle", "left, right, top, bottom, random"),
        ("inpaint m.safetensors --mask mask.png", "(9, 9)"),
        ("inpaint m.safetensors --data none.npy", "none.npy"),
        ("inpaint m.safetensors --data wide.npy", "(batch, 64)"),
        ("inpaint elsewhere.safetensors", "--data"),
        ("evaluate m.safetensors --data bytes.npy", "divide by 255"),
        ("evaluate m.safetensors --data nan.npy", "NaN"),
        ("evaluate m.safetensors --data wide.npy", "65 pixels"),
        ("info none.ckpt", "none.ckpt"),
        ("export . --out new.safetensors", "best.ckpt"),
        ("export . --out m.pt", ".safetensors"),
        ("sample m.safetensors --device abacus", "abacus"),
        ("nonsense", "nonsense"),
        ("fit --config none.yaml", "none.yaml"),
        (FIT + " --model.rates.f [0.1]", "rates.f"),
        (FIT + " --model.stack.activations [swish,sigmoid]", "swish"),
        (FIT + " " + NO_MNIST, "looked"),
        ("filters mlp.safetensors", "f_1 is MLP, which has no weights"),
        ("filters plain.safetensors --level 3", "--level 3 is not in 1 .. 2"),
        ("filters plain.safetensors --level 0", "--level 0"),
        ("filters plain.safetensors --n 0", "--n=0"),
        ("filters plain.safetensors --out f.pdf", ".png"),
        # the nearest name
        ("sampel x", "no command 'sampel'; accepted: fit, validate, test, "),
        ("sampel x", "did you mean sample?"),
        ("train x", "no command 'train'; it is called fit"),
        ("sample m --sampels 3", "sample: no option --sampels; accepted: --help, --n"),
        ("sample m --sed 3", "did you mean --seed?"),
        ("sample m --n", "sample: --n: expected one argument"),
        ("sample m --n many", "sample: --n: 'many' is no whole number"),
        ("evaluate m --sigma-x wide", "evaluate: --sigma-x: 'wide' is no number"),
        ("sample", "sample: needed: MODEL; `gendae sample --help` says what for"),
        ("sample m x", "sample: 'x' is one argument too many"),
        ("export m", "export: needed: --out"),
        ("sample mnist-kl-parzn", "did you mean mnist-kl-parzen?"),
        ("sample digits-variational-em --sampler generat", "did you mean generate?"),
        ("inpaint digits-variational-em --mask rigth", "did you mean right?"),
        ("fit", "needed: --config FILE.yaml, or a rule with its network, and data"),
        ("fit --config nofile.yaml", "nofile.yaml: file does not exist"),
        ("fit --config mnist-kl-gausian", "configs/mnist-kl-gaussian.yaml?"),
        (KL + " --model.alhpa 3", "model.alhpa: no argument of KLRule; accepted: stack, "),
        (KL + " --model.alhpa 3", "did you mean alpha?"),
        (KL + " --model.stack.size [3]", "did you mean sizes?"),
        (KL + " --model.alpha big", "model.alpha=big: a number or null is needed"),
        (KL + " --model.stack.noise null", "model.stack.noise=null: null this deep is taken from"),
        (KL + " --model.alpha", "--model, or an option below it, lacks its value"),
        (KL + " --model KLRul", "model='KLRul' is unknown; accepted: "),
        (KL + " --model KLRul", " KLRule, "),
        (KL + " --model KLRul", "did you mean KLRule?"),
        (KL + " --model.help=", "--model.help='' is unknown; a public name of gendae"),
        (KL + " --model.help KLRul", "did you mean KLRule?"),
        (KL + " --data MNSIT", "did you mean MNIST?"),
        (KL + " --trainer.max_epoch 3", "did you mean --trainer.max_epochs?"),
        (KL + " --trainr.max_epochs 3", "did you mean --trainer.max_epochs?"),
        (KL + " --max_epochs 3", "did you mean --trainer.max_epochs?"),
        (KL + " --trainer.max_epochs x", "trainer.max_epochs=x: a whole number or null is needed"),
        (KL + " --parzen.nn 3", "accepted: n, grid, every, picture; did you mean --parzen.n?"),
        (KL + " stray", "'stray' is one argument too many"),
        (KL + " --model.eval_samples 3", "is model.stack.settings.samples since gendae 0.2"),
        (
            KL + " --model.lr 0.1",
            "no option --model.lr; it is --model.rates.f and --model.rates.g",
        ),
        (KL + " --optimizer Adam", "no option --optimizer; it is --model.rates.optimizer"),
        (KL + " --lr_scheduler StepLR", "it is --model.rates.decline and --model.rates.hold"),
        (KL + " --model.lr_f [0.1]", "is model.rates.f since gendae 0.2"),
        (BITS, "error: BackpropRule does not support this network"),
        (BITS, "fixed=1"),
        (TOYS + " --data.kind rings", "data.kind is data.distribution since gendae 0.2"),
        (FEW + " --data.label_seed 3", "label_seed is data.labelled.seed since gendae 0.2"),
        (FEW + " --data.labelled 600", "data.labelled='600' is no FewLabels; set data.labelled.c"),
        (KL + " --data Images --data.path=", "path='': the name of a file or folder is needed"),
    ],
)
def test_a_mistake_is_one_line_exit_2_and_writes_nothing(
    model, tmp_path, capsys, monkeypatch, command, words
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("GENDAE_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    bad_files(tmp_path, model)
    before = {p for p in tmp_path.rglob("*") if p.is_file()}

    assert gendae(*command.split()) == 2

    assert words in one_line(capsys)
    assert {p for p in tmp_path.rglob("*") if p.is_file()} == before
    assert not list((tmp_path / "runs").glob("*"))


STACK = "model.init_args.stack"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("trainer.max_epoch", 3, "did you mean --trainer.max_epochs?"),
        ("dat", {"class_path": "Digits"}, "did you mean --data?"),
        ("data.class_path", "gendae.Digitss", "data='gendae.Digitss' is unknown; accepted: "),
        ("data.init_args", {"batchsize": 3}, "did you mean batch_size?"),
        ("model", 3, "model=3: a class_path of Rule, with its init_args, is needed"),
        (f"{STACK}.init_args.sizes", "ab", "model.stack.sizes=ab: a list is needed"),
        (f"{STACK}.init_args.sizes", ["x", 3], "sizes=x: a whole number or auto is needed"),
        (f"{STACK}.init_args.prior", {"class_path": "GausPrior"}, "mean GaussianPrior?"),
        (f"{STACK}.init_args.prior.init_args", {"bandwidth": -1}, "error: bandwidth=-1"),
        (f"{STACK}.class_path", "gendae.deep_auto", "did you mean deep_autoencoder?"),
        (f"{STACK}.class_path", "Digits", "makes another kind of object than is needed"),
        ("model.init_args.optimizer", "sgd", "is model.rates.optimizer since gendae 0.2"),
    ],
)
def test_a_mistake_in_a_file_is_one_line(tmp_path, capsys, key, value, words):
    config = yaml.safe_load(Path(KL.split()[-1]).read_text())
    *way, last = key.split(".")
    section = functools.reduce(lambda part, name: part[name], way, config)
    section[last] = value
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))

    assert gendae("fit", "--config", tmp_path / "c.yaml") == 2
    assert words in one_line(capsys)


def test_list_has_a_line_on_everything_that_comes_with_gendae(capsys):
    assert gendae("list") == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    texts = dict(line for line in lines if len(line) == 2)

    rules = [name for name in __all__ if name.endswith("Rule") and name != "Rule"]
    found = (ROOT / "configs").rglob("*.yaml")
    configs = [path.name for path in found if path.parent.name != "reproduction"]
    for name in (*rules, *configs, *shipped(), *SAMPLERS, "ParzenPrior", "GaussianPrior"):
        assert texts[name], name
    assert "Rule" not in texts


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - set(TRAINING)))
def test_every_argument_is_an_option_with_a_help_text(name):
    function = getattr(import_module(f"gendae.commands.{name}"), name)
    options = {o.dest: o for o in parser(name)._actions if o.dest != "help"}

    for argument in inspect.signature(function).parameters.values():
        if argument.kind not in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD):
            option = options.pop(argument.name)
            assert len(option.help) > 8, argument.name
            assert option.default in (argument.default, None, False)

    assert options == {}


def test_what_trains_nothing_is_helped_without_options_of_training():
    told = {name: "\n".join(fit_commands.help_lines(name)) for name in TRAINING}
    for option in ("--trainer.max_epochs", "--credit.every", "rules:"):
        assert [option in text for text in told.values()] == [True, False, False]
    for option in ("--config", "--ckpt_path", "--data NAME", "digits-kl.yaml"):
        assert all(option in text for text in told.values())


def test_divergence_ends_with_one_line(tmp_path, capsys):
    assert fit(tmp_path, "--model.rates.g", "1e30", "--model.rates.f", "1e30") == 1
    error = capsys.readouterr().err
    assert "training stopped" in error
    assert "Traceback" not in error


@pytest.mark.parametrize("arguments", [[], ["sample"], ["evaluate"], ["fit"], ["compare"]])
def test_help_answers_within_two_seconds(arguments):
    command = [sys.executable, "-m", "gendae.cli", *arguments, "--help"]

    for _ in range(3):  # the machine may be busy with something else
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - start
        if seconds < 2.0:
            break

    assert seconds < 2.0
    assert "usage: gendae" in done.stdout


def test_samples_and_masks_from_python_equal_the_command_s(model, tmp_path):
    from gendae import generate

    gendae("sample", model, "--n", 5, "--seed", 2, "--out", tmp_path / "x.npy")
    expected = generate(load(model), 5, seed=2).clamp(0, 1).numpy()
    assert np.allclose(np.load(tmp_path / "x.npy"), expected, atol=1e-6)
    assert inpaint.observed_pixels("top", (8, 8)).sum() == 32


def test_filters_are_rows_of_the_weights_on_their_own_scale(tmp_path, monkeypatch):
    stack = deep_autoencoder([64, 30, 9])
    path = save(stack, tmp_path / "m.safetensors")
    shown = []
    draw = plots.image_grid

    def image_grid(x, shape):
        shown.append((x, shape))
        return draw(x, shape)

    monkeypatch.setattr(plots, "image_grid", image_grid)
    for arguments in (["--n", 10], ["--n", 10], ["--n", 10, "--seed", 1], ["--level", 2]):
        assert gendae("filters", path, "--out", tmp_path / "f.png", *arguments) == 0

    assert Image.open(tmp_path / "f.png").size[0] > 3 * 8

    (a, shape), (b, _), (c, _), (top, row) = shown
    assert (a.shape, tuple(shape), top.shape, tuple(row)) == ((10, 64), (8, 8), (9, 30), (1, 30))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)

    weight = stack.pairs[0].f.weight.detach()
    rows = set()
    for image in a:
        centred = 2 * image - 1
        match = torch.cosine_similarity(centred[None], weight)
        assert centred.abs().max() == 1
        assert match.max() > 1 - 1e-5
        rows.add(int(match.argmax()))

    assert len(rows) == 10


def test_a_machine_without_gpu_says_so_in_one_line(tmp_path, capsys):
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip("there is one")

    config = ROOT / "configs/digits-kl.yaml"
    arguments = ["--trainer.accelerator", "gpu", "--trainer.default_root_dir", tmp_path / "runs"]

    assert gendae("fit", "--config", config, *arguments) == 2

    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("gendae: error:") and "gpu" in error


def test_a_short_trial_leaves_its_best_weights_and_samples(tmp_path, capsys):
    """Also where a validation leaves out the Parzen score, by which best.ckpt is chosen."""
    common = ["fit", "--config", DIGITS, "--trainer.default_root_dir", tmp_path, *QUICK]

    rare = ["--trainer.check_val_every_n_epoch", "20", "--trainer.max_epochs"]
    assert gendae(*common, *rare, 1) == 0

    run = tmp_path / "0001"
    stack = load(run / "checkpoints/best.ckpt")
    assert stack.prior.fitted
    assert stack.facts["updates"] == 11
    assert (run / "samples.png").is_file()

    steps = ["--trainer.max_steps", 4]
    assert gendae(*common, *rare, 3, *steps) == 0
    assert load(tmp_path / "0002/checkpoints/best.ckpt").facts["updates"] == 4

    last = run / "checkpoints/last.ckpt"
    assert gendae(*common, *rare, 2, "--ckpt_path", last) == 0
    assert load(tmp_path / "0003/checkpoints/best.ckpt").facts["updates"] == 22

    none = ["--trainer.limit_val_batches", 0]
    assert gendae(*common, *rare, 1, *none) == 0
    assert load(tmp_path / "0004/checkpoints/last.ckpt").prior.fitted
    capsys.readouterr()

    assert gendae("export", tmp_path / "0004", "--out", tmp_path / "m.safetensors") == 2
    assert "best.ckpt; there is --which last" in one_line(capsys)

    often = ["--trainer.max_epochs", "3", "--trainer.check_val_every_n_epoch", "1"]
    assert gendae(*common, *often, "--parzen.every", "2") == 0

    assert load(tmp_path / "0005/checkpoints/best.ckpt").facts["epochs"] in (2, 3)
