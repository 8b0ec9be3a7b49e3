"""`gendae compare`: rules on one network, data and seeds; numbers recomputed from the runs."""

import csv
import itertools
import json
import statistics

import numpy as np
import pytest
import torch
import yaml

from gendae import load
from gendae.commands import compare
from gendae.metrics.report import measures
from gendae.training import fit
from tests.commands.test_cli import gendae


def network(**options):
    arguments = {"sizes": [64, 12, 12], **options}
    return {"class_path": "gendae.deep_classifier", "init_args": arguments}


def rule(name, **arguments):
    return {"class_path": name, "init_args": arguments}


NETWORK = network()
DTP = "DifferenceTargetPropRule"
CONFIG = {
    "seed_everything": 5,
    "trainer": {"max_epochs": 9, "accelerator": "cpu"},
    "model": rule(
        f"gendae.{DTP}",
        stack=NETWORK,
        inverses={"sigma": 0.1},
        rates={"f": 2e-3, "g": 1e-3},
    ),
    "data": {"class_path": "gendae.Digits", "init_args": {"batch_size": 50}},
}
ALIGNMENT = rule("FeedbackAlignmentRule", stack=network(activation="relu"), rates={"f": 5e-3})
NAMES = [DTP, "BackpropRule", "alignment"]


def write(folder, name="c.yaml", **changes):
    path = folder / name
    path.write_text(yaml.safe_dump({**CONFIG, **changes}))
    return path


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The folder of a comparison of three rules, with the lines that it printed."""
    folder = tmp_path_factory.mktemp("compare")
    nowhere = {"class_path": "nowhere.Nothing"}
    other = write(folder, "alignment.yaml", model=ALIGNMENT, data=nowhere)
    arguments = ["--config", write(folder), "--rules", *NAMES[:2], other, "--seeds", 0, 1]
    changes = ["--max-epochs", 3, "--trainer.log_every_n_steps", 7, "--data.batch_size", 40]
    printed = []

    def record(*words, **options):
        printed.append((words[0], options))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", record)
        code = gendae("compare", *arguments, *changes, "--out", folder / "out")

    assert code == 0
    return folder / "out", [line for line, options in printed if "file" not in options]


def log(folder):
    with (folder / "metrics.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["val/error"]]
    return {int(row["epoch"]) + 1: float(row["val/error"]) for row in rows}


def result_of(folder):
    return json.loads((folder / "comparison.json").read_text())


def test_every_number_is_that_of_the_runs(compared, digits):
    folder, _ = compared
    result = result_of(folder)

    assert (result["seeds"], list(result["rules"])) == ([0, 1], NAMES)

    x, y, _ = digits.split("test")
    for name, report in result["rules"].items():
        for seed, run in enumerate(report["runs"]):
            own = folder / f"{name}-{seed}/0001"
            assert (run["seed"], run["folder"]) == (seed, str(own))

            errors = log(own)
            assert run["curve"] == [[epoch, error] for epoch, error in errors.items()]
            assert list(errors) == [1, 2, 3]
            assert run["validation"] == min(errors.values())
            assert run["epoch"] == min(errors, key=errors.get)

            best = load(own / "checkpoints/best.ckpt")
            wrong = (best(x)[0].argmax(1) != y).double().mean().item()
            assert run["test"] == pytest.approx(wrong, abs=1e-12)

            last = load(own / "checkpoints/last.ckpt").facts
            assert run["seconds_per_epoch"] == pytest.approx(last["seconds"] / 3)
            assert last["seed"] == seed

        for key, part in (("validation_error", "validation"), ("test_error", "test")):
            values = [run[part] for run in report["runs"]]
            assert report[key]["mean"] == pytest.approx(statistics.mean(values))
            assert report[key]["sd"] == pytest.approx(statistics.stdev(values))


def test_the_table_is_printed_and_written(compared):
    folder, lines = compared
    result = result_of(folder)["rules"]
    markdown = (folder / "comparison.md").read_text().splitlines()

    assert lines[0].split("  ")[0] == "rule"

    for row, name in enumerate(NAMES):
        error = result[name]["test_error"]
        text = f"{100 * error['mean']:.2f} ± {100 * error['sd']:.2f} %"
        assert lines[1 + row].startswith(name)
        assert text in lines[1 + row]
        assert markdown[2 + row].startswith(f"| {name} | 2 | ")
        assert text in markdown[2 + row]

    first, second = (list(part) for _, part in itertools.groupby(markdown, bool) if any(part))
    assert len({line.count("|") for line in first}) == 1
    assert len({line.count("|") for line in second}) == 1

    files = [line.rsplit("/")[-1] for line in lines[-3:]]
    assert files == ["comparison.md", "curves.png", "comparison.json"]
    assert (folder / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_each_run_is_what_gendae_fit_makes_of_its_configuration(compared, tmp_path):
    folder, _ = compared
    command = load(folder / "BackpropRule-1/0001/checkpoints/best.ckpt").facts["command"].split()

    assert command[:4] == ["gendae", "fit", "--config", str(folder / "BackpropRule.yaml")]

    command[-1] = str(tmp_path / "again")
    torch.rand(3)  # the state of the global generator must not matter
    assert gendae(*command[1:]) == 0
    assert log(tmp_path / "again/0001") == log(folder / "BackpropRule-1/0001")


def test_what_a_rule_gets_of_the_configuration(compared):
    folder, _ = compared
    models = {
        name: yaml.safe_load((folder / f"{name}.yaml").read_text())["model"] for name in NAMES
    }

    assert models[NAMES[0]]["init_args"] == CONFIG["model"]["init_args"]
    assert models["BackpropRule"]["class_path"].endswith(".BackpropRule")
    assert models["BackpropRule"]["init_args"] == {
        "stack": NETWORK,
        "rates": {"f": 2e-3, "g": 1e-3},
    }
    assert models["alignment"] == ALIGNMENT

    for name in NAMES:
        run = yaml.safe_load((folder / f"{name}-1/0001/config.yaml").read_text())
        assert run["seed_everything"] == 1
        assert run["trainer"]["max_epochs"] == 3
        assert run["trainer"]["log_every_n_steps"] == 7
        assert run["data"]["class_path"] == "gendae.Digits"
        assert run["data"]["init_args"] == {"batch_size": 40, "seed": 0}
        assert len(run["data"]) == 2


def test_seeds_draw_the_same_first_weights_for_every_rule():
    """Rules of one's own are named by an import path."""
    weights = []
    for name in (DTP, "gendae.BackpropRule"):
        torch.manual_seed(3)
        (entry,) = compare.configurations(CONFIG, [name]).values()
        weights.append(compare.build(entry, [])[0].stack.pairs[0].f.weight)

    assert entry["model"]["class_path"] == "gendae.BackpropRule"
    assert torch.equal(*weights)


def images(path):
    return {"class_path": "gendae.Images", "init_args": {"path": path}}


CONFIGS = {
    "c": {},
    "bits": {"model": rule(f"gendae.{DTP}", stack=network(bits=[1]))},
    "wide": {"model": rule(f"gendae.{DTP}", stack=network(sizes=[64, 13, 12]))},
    "kl": {"model": rule("gendae.KLRule", stack=rule("gendae.deep_autoencoder", sizes=[64, 8]))},
    "rate": {"model": rule(f"gendae.{DTP}", stack=NETWORK, rates={"f": -1.0})},
    "bare": {"data": images("x.npy")},
    "narrow": {"data": images("narrow.npz")},
    "eleven": {"data": images("eleven.npz")},
}


def bad_files(folder):
    """The files that the commands below name."""
    for name, changes in CONFIGS.items():
        write(folder, f"{name}.yaml", **changes)

    torch.save(torch.zeros(1), folder / "no.yaml")
    (folder / "list.yaml").write_text("[1, 2]")
    (folder / "done").mkdir()
    (folder / "done/comparison.json").write_text("{}")
    np.save(folder / "x.npy", np.random.rand(30, 64))
    np.savez(folder / "narrow.npz", x=np.random.rand(30, 63), y=np.zeros(30, int))
    np.savez(folder / "eleven.npz", x=np.random.rand(30, 64), y=np.full(30, 10))


NO_DERIVATIVE = (
    "error: BackpropRule: BackpropRule does not support this network: h_1 is transmitted as bits"
)
ONE_PROCESS = "a comparison runs in one process; accepted: 1"
ONE_RULE = f"--config c.yaml --rules {DTP}"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"{ONE_RULE} NoRule", "'NoRule': neither a configuration file nor a rule"),
        (f"{ONE_RULE} KLRule", "KLRule: stack=Classifier: KLRule trains generative stacks"),
        (f"{ONE_RULE} Digits", "'Digits': neither a configuration file nor a rule"),
        (f"--config kl.yaml --rules KLRule {DTP}", f"{DTP}: "),
        ("--config kl.yaml --rules KLRule c.yaml", "--config: KLRule trains no classifier"),
        (f"{ONE_RULE} --samples 5", "--samples=5: a whole number >= 6 is needed"),
        ("--config c.yaml --rules json.JSONDecoder", "json.JSONDecoder"),
        (f"{ONE_RULE} BackpropRule {DTP}", f"'{DTP}' twice"),
        (f"--config bits.yaml --rules {DTP} BackpropRule", NO_DERIVATIVE),
        (f"{ONE_RULE} wide.yaml", "wide: its network has the sizes [64, 13, 12, 10]"),
        (f"{ONE_RULE} kl.yaml", "kl: KLRule trains no classifier"),
        (f"{ONE_RULE} rate.yaml", "error: rate: rates.f=-1.0: a number >= 0.0 is needed"),
        (f"--config none.yaml --rules {DTP}", "none.yaml"),
        ("--config c.yaml --rules none.yaml", "none.yaml"),
        (f"--config no.yaml --rules {DTP}", "no.yaml is not a YAML file"),
        (f"--config list.yaml --rules {DTP}", "model with class_path"),
        (f"{ONE_RULE} --seeds 1 1", "--seeds [1, 1]"),
        (f"{ONE_RULE} --seeds -1", "--seeds"),
        (f"{ONE_RULE} --max-epochs 0", "--max-epochs=0"),
        (
            f"{ONE_RULE} --max-epochs 2 --trainer.check_val_every_n_epoch 3",
            "max_epochs=2 ends before the first validation",
        ),
        (f"{ONE_RULE} --trainer.devices 2", ONE_PROCESS),  # each would run the whole comparison
        (f"{ONE_RULE} --trainer.num_nodes=3", ONE_PROCESS),
        (f"{ONE_RULE} --trainer.nonsense 3", "--trainer.nonsense"),
        (f"{ONE_RULE} --max-epoch 3", "did you mean --max-epochs?"),
        ("--config c.yaml --rules BackpropRul", "did you mean BackpropRule?"),
        (f"{ONE_RULE} --data.bach_size 3", "accepted: batch_size, seed; did you mean batch_size?"),
        (f"{ONE_RULE} --out done", "holds a comparison already"),
        (f"--config bare.yaml --rules {DTP}", "Images: the train split has no labels"),
        (f"--config narrow.yaml --rules {DTP}", "(batch, 64)"),
        (f"--config eleven.yaml --rules {DTP}", "labels from 10 to 10"),
    ],
)
def test_refusals_are_one_line_before_any_training(tmp_path, monkeypatch, capsys, line, words):
    monkeypatch.chdir(tmp_path)
    bad_files(tmp_path)
    monkeypatch.setattr(fit, "main", lambda arguments: pytest.fail("a training started"))
    before = sorted(tmp_path.rglob("*"))

    arguments = line.split()
    if "--out" not in arguments:
        arguments += ["--out", "out"]

    assert gendae("compare", *arguments) == 2

    error = capsys.readouterr().err.strip()
    assert words in error
    assert error.startswith("gendae: error: ")
    assert "\n" not in error
    assert sorted(tmp_path.rglob("*")) == before


def test_a_diverged_run_counts_in_no_mean(tmp_path, capsys):
    stack = network(activation="linear")
    bad = rule("gendae.BackpropRule", stack=stack, rates={"f": 1e30, "optimizer": "sgd"})
    config = write(tmp_path, model=bad)
    good = write(tmp_path, "good.yaml", model=rule("BackpropRule", stack=stack))
    arguments = ["--config", config, "--rules", "BackpropRule", good]
    short = ["--seeds", 4, "--max-epochs", 1]

    assert gendae("compare", *arguments, *short, "--out", tmp_path / "out") == 0

    result = result_of(tmp_path / "out")["rules"]
    assert result["BackpropRule"]["diverged"] == [4]
    assert result["BackpropRule"]["test_error"] == {"mean": None, "sd": None}
    assert result["good"]["diverged"] == []

    printed = capsys.readouterr()
    assert "0 (1 diverged)" in printed.out
    assert "±" not in printed.out  # one seed has no deviation
    assert "BackpropRule, seed 4: diverged" in printed.err


def images_config(rule_name, **arguments):
    stack = rule("gendae.deep_autoencoder", sizes=[64, 10, 4], prior=rule("gendae.ParzenPrior"))
    return rule(f"gendae.{rule_name}", stack=stack, **arguments)


def test_models_of_images_are_compared_by_their_samples_and_paired_by_seed(tmp_path, digits):
    """Numbers are those of the models' files, differences those of the numbers."""
    config = write(tmp_path, model=images_config("TargetPropRule"))
    names = ["TargetPropRule", "VariationalEMRule"]
    arguments = ["--config", config, "--rules", *names, "--seeds", 0, 1, "--samples", 100]
    short = ["--max-epochs", 1, "--trainer.limit_train_batches", 3]
    out = tmp_path / "out"

    assert gendae("compare", *arguments, *short, "--parzen.n", 50, "--out", out) == 2
    assert gendae("compare", *arguments, *short, "--out", out) == 0

    result = result_of(out)
    splits = [digits.split(name).x for name in ("train", "valid", "test")]
    run = result["rules"]["VariationalEMRule"]["runs"][1]
    stack = load(f"{run['folder']}/checkpoints/last.ckpt")
    expected = measures(stack, *splits, n=100)
    assert run["measures"] == {
        name: pytest.approx(expected[name], rel=1e-6)
        for name in ("ll", "fid", "recall", "coverage")
    }

    for entry in result["differences"]:
        a, b = (
            [r["measures"][entry["measure"]] for r in result["rules"][n]["runs"]] for n in names
        )
        differences = [x - y for x, y in zip(a, b, strict=True)]
        assert (entry["rule"], entry["minus"]) == tuple(names)
        assert entry["mean"] == pytest.approx(statistics.mean(differences))
        assert (entry["low"], entry["high"]) == pytest.approx((min(differences), max(differences)))

    text = (out / "comparison.md").read_text()
    mean = statistics.mean(r["measures"]["ll"] for r in result["rules"][names[0]]["runs"])
    assert f"| {names[0]} | 2 | {mean:.2f} ± " in text
    assert f"| {names[0]} | {names[1]} | LL [nats] | " in text
    assert len(result["differences"]) == 4
    assert (out / "curves.png").read_bytes()[:4] == b"\x89PNG"
