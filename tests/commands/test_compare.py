"""`gendae compare`: rules on the same network, data and seeds; what it says is recomputed from the runs."""

import csv
import json
import statistics

import numpy as np
import pytest
import torch
import yaml

from gendae import cli, load
from gendae.commands import compare
from gendae.rules.backprop import BackpropRule

NETWORK = {"class_path": "gendae.deep_classifier", "init_args": {"sizes": [64, 12, 12]}}
CONFIG = {
    "seed_everything": 5,
    "trainer": {"max_epochs": 9, "accelerator": "cpu"},
    "model": {
        "class_path": "gendae.DifferenceTargetPropRule",
        "init_args": {"stack": NETWORK, "sigma": 0.1, "lr_f": 2e-3, "lr_g": 1e-3},
    },
    "data": {"class_path": "gendae.Digits", "init_args": {"batch_size": 50}},
}
ALIGNMENT = {
    "class_path": "FeedbackAlignmentRule",
    "init_args": {
        "stack": {**NETWORK, "init_args": {"sizes": [64, 12, 12], "activation": "relu"}},
        "lr_f": 5e-3,
    },
}
NAMES = ["DifferenceTargetPropRule", "BackpropRule", "alignment"]


def gendae(*arguments):
    try:
        return cli.main([str(a) for a in arguments])
    except SystemExit as stop:
        return stop.code


def write(folder, name="c.yaml", **changes):
    path = folder / name
    path.write_text(yaml.safe_dump({**CONFIG, **changes}))
    return path


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The folder of a comparison of three rules, with the lines that it printed."""
    folder = tmp_path_factory.mktemp("compare")
    other = write(
        folder, "alignment.yaml", model=ALIGNMENT, data={"class_path": "nowhere.Nothing"}
    )
    with pytest.MonkeyPatch.context() as patch:
        printed = []
        patch.setattr(
            "builtins.print", lambda *words, **options: printed.append((words[0], options))
        )
        code = gendae(
            "compare",
            "--config",
            write(folder),
            "--rules",
            *NAMES[:2],
            other,
            "--seeds",
            0,
            1,
            "--max-epochs",
            3,
            "--trainer.log_every_n_steps",
            7,
            "--data.batch_size",
            40,
            "--out",
            folder / "out",
        )
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
    for name, found in result["rules"].items():
        for seed, run in enumerate(found["runs"]):
            own = folder / f"{name}-{seed}/0001"
            assert (run["seed"], run["folder"]) == (seed, str(own))
            errors = log(own)
            assert run["curve"] == [[epoch, error] for epoch, error in errors.items()]
            assert list(errors) == [1, 2, 3]
            assert run["validation"] == min(errors.values())
            assert run["epoch"] == min(errors, key=errors.get)
            network = load(own / "checkpoints/best.ckpt")
            assert run["test"] == pytest.approx(
                (network(x)[0].argmax(1) != y).double().mean().item(), abs=1e-12
            )
            last = load(own / "checkpoints/last.ckpt").facts
            assert run["seconds_per_epoch"] == pytest.approx(last["seconds"] / 3)
            assert last["seed"] == seed
        for key, part in (("validation_error", "validation"), ("test_error", "test")):
            values = [run[part] for run in found["runs"]]
            assert found[key]["mean"] == pytest.approx(statistics.mean(values))
            assert found[key]["sd"] == pytest.approx(statistics.stdev(values))


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
    assert len({line.count("|") for line in markdown}) == 1
    assert [line.rsplit("/")[-1] for line in lines[4:]] == [
        "comparison.md",
        "curves.png",
        "comparison.json",
    ]
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
    assert models["BackpropRule"]["init_args"] == {"stack": NETWORK, "lr_f": 2e-3}
    assert models["alignment"] == ALIGNMENT
    for name in NAMES:
        run = yaml.safe_load((folder / f"{name}-1/0001/config.yaml").read_text())
        assert run["seed_everything"] == 1
        assert run["trainer"]["max_epochs"] == 3
        assert run["trainer"]["log_every_n_steps"] == 7
        assert run["data"] == {
            "class_path": "gendae.Digits",
            "init_args": {"batch_size": 40, "seed": 0},
        }


def test_seeds_draw_the_same_first_weights_for_every_rule():
    found = []
    for name in NAMES[:2]:
        torch.manual_seed(3)
        entry = compare.configurations(CONFIG, [name])[name]
        found.append(compare.build(entry, [])[0].stack.pairs[0].f.weight)
    assert torch.equal(*found)


def test_rules_of_one_s_own_by_import_path():
    assert compare.named_rule("gendae.BackpropRule") is BackpropRule


BITS = {**NETWORK, "init_args": {"sizes": [64, 12, 12], "bits": [1]}}


def bad_requests(folder):
    """Arguments after `gendae compare`, and words that the one line must hold."""
    config, dtp = write(folder), "DifferenceTargetPropRule"
    bits = write(folder, "bits.yaml", model={**CONFIG["model"], "init_args": {"stack": BITS}})
    wide = {**NETWORK, "init_args": {"sizes": [64, 13, 12]}}
    wide = write(folder, "wide.yaml", model={**CONFIG["model"], "init_args": {"stack": wide}})
    stack = {"class_path": "gendae.deep_autoencoder", "init_args": {"sizes": [64, 8]}}
    kl = write(
        folder,
        "kl.yaml",
        model={"class_path": "gendae.KLRule", "init_args": {"stack": stack}},
    )
    rate = write(
        folder,
        "rate.yaml",
        model={**CONFIG["model"], "init_args": {"stack": NETWORK, "lr_f": -1.0}},
    )
    torch.save(torch.zeros(1), folder / "no.yaml")
    (folder / "list.yaml").write_text("[1, 2]")
    (folder / "done").mkdir()
    (folder / "done/comparison.json").write_text("{}")
    bare = write(
        folder,
        "bare.yaml",
        data={"class_path": "gendae.Images", "init_args": {"path": "x.npy"}},
    )
    np.save(folder / "x.npy", np.random.rand(30, 64))
    np.savez(folder / "narrow.npz", x=np.random.rand(30, 63), y=np.zeros(30, int))
    narrow = write(
        folder,
        "narrow.yaml",
        data={"class_path": "gendae.Images", "init_args": {"path": "narrow.npz"}},
    )
    np.savez(folder / "eleven.npz", x=np.random.rand(30, 64), y=np.full(30, 10))
    eleven = write(
        folder,
        "eleven.yaml",
        data={"class_path": "gendae.Images", "init_args": {"path": "eleven.npz"}},
    )
    return [
        (
            ["--config", config, "--rules", dtp, "NoRule"],
            "DifferenceTargetPropRule, FeedbackAlignmentRule",
        ),
        (
            ["--config", config, "--rules", dtp, "KLRule"],
            "'KLRule': neither a configuration file nor a rule",
        ),
        (["--config", config, "--rules", "json.JSONDecoder"], "json.JSONDecoder"),
        (["--config", config, "--rules", dtp, "BackpropRule", dtp], f"'{dtp}' twice"),
        (
            ["--config", bits, "--rules", dtp, "BackpropRule"],
            "error: BackpropRule: BackpropRule does not support this network: h_1 is transmitted as bits",
        ),
        (
            ["--config", config, "--rules", dtp, wide],
            "wide: its network has the sizes [64, 13, 12, 10]",
        ),
        (["--config", config, "--rules", dtp, kl], "kl: KLRule trains no classifier"),
        (
            ["--config", config, "--rules", dtp, rate],
            "error: rate: lr_f=-1.0: a number >= 0.0 is needed",
        ),
        (["--config", folder / "none.yaml", "--rules", dtp], "none.yaml"),
        (["--config", config, "--rules", folder / "none.yaml"], "none.yaml"),
        (["--config", folder / "no.yaml", "--rules", dtp], "no.yaml is not a YAML file"),
        (["--config", folder / "list.yaml", "--rules", dtp], "model with class_path"),
        (["--config", config, "--rules", dtp, "--seeds", 1, 1], "--seeds [1, 1]"),
        (["--config", config, "--rules", dtp, "--seeds", -1], "--seeds"),
        (["--config", config, "--rules", dtp, "--max-epochs", 0], "--max-epochs=0"),
        (
            [
                "--config",
                config,
                "--rules",
                dtp,
                "--max-epochs",
                2,
                "--trainer.check_val_every_n_epoch",
                3,
            ],
            "max_epochs=2 ends before the first validation",
        ),
        (["--config", config, "--rules", dtp, "--trainer.nonsense", 3], "--trainer.nonsense"),
        (["--config", config, "--rules", dtp, "--nonsense", 3], "nonsense"),
        (
            ["--config", config, "--rules", dtp, "--out", folder / "done"],
            "holds a comparison already",
        ),
        (["--config", bare, "--rules", dtp], "Images: the train split has no labels"),
        (["--config", narrow, "--rules", dtp], "(batch, 64)"),
        (["--config", eleven, "--rules", dtp], "labels from 10 to 10"),
    ]


@pytest.mark.parametrize("number", range(22))
def test_refusals_are_one_line_before_any_training(tmp_path, monkeypatch, capsys, number):
    monkeypatch.chdir(tmp_path)
    arguments, words = bad_requests(tmp_path)[number]
    monkeypatch.setattr("gendae.fit.main", lambda arguments: pytest.fail("a training started"))
    before = sorted(tmp_path.rglob("*"))
    out = [] if "--out" in arguments else ["--out", tmp_path / "out"]
    assert gendae("compare", *arguments, *out) == 2
    error = capsys.readouterr().err.strip()
    assert words in error
    assert "Traceback" not in error
    if (
        "nonsense" not in words or "trainer" in words
    ):  # the parser of the command itself adds its usage
        assert "\n" not in error
    assert sorted(tmp_path.rglob("*")) == before


def test_a_diverged_run_counts_in_no_mean(tmp_path, capsys):
    stack = {**NETWORK, "init_args": {"sizes": [64, 12, 12], "activation": "linear"}}
    config = write(
        tmp_path,
        model={
            "class_path": "gendae.BackpropRule",
            "init_args": {"stack": stack, "lr_f": 1e30, "optimizer": "sgd"},
        },
    )
    good = write(
        tmp_path, "good.yaml", model={"class_path": "BackpropRule", "init_args": {"stack": stack}}
    )
    assert (
        gendae(
            "compare",
            "--config",
            config,
            "--rules",
            "BackpropRule",
            good,
            "--seeds",
            4,
            "--max-epochs",
            1,
            "--out",
            tmp_path / "out",
        )
        == 0
    )
    result = result_of(tmp_path / "out")["rules"]
    assert result["BackpropRule"]["diverged"] == [4]
    assert result["BackpropRule"]["test_error"] == {"mean": None, "sd": None}
    assert result["good"]["diverged"] == []
    printed = capsys.readouterr()
    assert "0 (1 diverged)" in printed.out
    assert "±" not in printed.out  # one seed has no deviation
    assert "BackpropRule, seed 4: diverged" in printed.err


@pytest.mark.parametrize("options", [["--trainer.devices", "2"], ["--trainer.num_nodes=3"]])
def test_several_processes_are_refused(tmp_path, capsys, options):
    """Each of them would run the whole comparison."""
    arguments = [
        "compare",
        "--config",
        "configs/mnist-dtp-tanh.yaml",
        "--rules",
        "BackpropRule",
        "--out",
        str(tmp_path / "c"),
    ]
    assert cli.main([*arguments, *options]) == 2
    assert "a comparison runs in one process; accepted: 1" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
