"""`gendae reproduce`: what is run, by whom, what is reported; killed, and gone on with."""

import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import time

import pytest
import torch
import yaml

import gendae as package
from gendae.commands import reproduce, reproduction_report
from gendae.metrics import report
from gendae.storage import model_file
from gendae.storage.atomic import write_json
from gendae.training import fit, reproduction, scores
from gendae.training.claims import claimed
from gendae.training.configurations import QUIET, write_config
from gendae.training.reproduction import Folder, config_of, energies, in_order, joules
from gendae.training.rows import read_tables
from gendae.training.scores import LACKING
from tests.commands.test_cli import gendae, one_line

SMALL = {
    "model": {
        "class_path": "gendae.BackpropRule",
        "init_args": {"stack": {"class_path": "gendae.deep_classifier", "init_args": {}}},
    },
    "data": {"class_path": "gendae.Digits", "init_args": {"batch_size": 50}},
}
SMALL["model"]["init_args"]["stack"]["init_args"]["sizes"] = [64, 12]
EPOCHS = 25
RUN = ["--trainer.max_epochs", str(EPOCHS), "--trainer.limit_train_batches", "4"]

ERROR = {"published": 5.0, "error": 0.3, "source": "Nobody 1999"}
KNOWN = {0: 4.0, 1: 5.0, 2: 4.5}
QUICK = {"measured": KNOWN, "tolerance": 1.0}


def table(folder, **rows):
    """A file of tables with these rows, of the small configuration."""
    write_config(folder / "small.yaml", SMALL)
    made = {
        name: {"config": "small.yaml", "options": RUN, "says": f"rule {name}", **row}
        for name, row in rows.items()
    }
    content = {"tables": {"t": {"title": "T", "against": next(iter(rows)), "rows": made}}}
    file = folder / "tables.yaml"
    file.write_text(yaml.safe_dump(content))
    return str(file)


def runs(file):
    return {run.name: run for run in in_order(read_tables(file)["t"].rows)}


def record(folder, run, value, **changes):
    """Write the record of a run, as a run does that has ended."""
    content = {
        "row": run.row.name,
        "seed": run.seed,
        "digest": run.digest,
        "versions": {"gendae": package.__version__},
        "command": "gendae fit",
        "measures": {} if value is None else {"error": value},
        "error": "diverged" if value is None else None,
        "seconds": 61.0,
        "memory_mib": 400.0,
        "energy_joules": None,
        "sha256": {"data": "d" * 64, "model": "e" * 64},
    }
    write_json(folder.record_file(run), content | changes)


# -- a run by real processes ----------------------------------------------------------------------


def begin(file, out):
    """Another process that reproduces, until it is killed."""
    os.setsid()
    reproduce.reproduce("a", tables=file, out=str(out))


def wait_for(pattern, folder, seconds=120):
    for _ in range(100 * seconds):
        if list(folder.glob(pattern)):
            return
        time.sleep(0.01)
    pytest.fail(f"no {pattern} in {folder}")


def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been(tmp_path, capsys):
    """Two processes and a SIGKILL: the child of the killed one ends, the other goes on.

    They stand still meanwhile, so that the training is not over before.
    """
    file = table(tmp_path, a={"seeds": [3], "measures": {"error": ERROR}})
    out = tmp_path / "out"
    run = runs(file)["a-3"]
    first = multiprocessing.get_context("fork").Process(target=begin, args=(file, out))
    first.start()
    wait_for("runs/*/0001/checkpoints/last.ckpt", out)
    os.killpg(first.pid, signal.SIGSTOP)

    lines = reproduce.reproduce("a", tables=file, out=str(out))  # a second one claims nothing
    assert "another process is at it" in "\n".join(lines)
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    os.killpg(first.pid, signal.SIGCONT)  # the child
    reproduce.reproduce("a", tables=file, out=str(out))

    folder = Folder(out, 1.0)
    found = folder.current(run)
    assert sorted(path.name for path in folder.root(run).glob("0*")) == ["0001", "0002"]
    assert list((out / "claims").glob("*.json")) == []

    file = write_config(tmp_path / "whole.yaml", config_of(run.row))
    words = ["fit", "--config", str(file), *QUIET, *RUN, "--seed_everything", "3"]
    whole = fit.main([*words, "--trainer.default_root_dir", str(tmp_path / "whole")])
    stack = model_file.load(whole / "checkpoints/last.ckpt")
    assert found["sha256"]["model"] == model_file.digest(stack.state_dict())
    assert found["facts"]["updates"] == EPOCHS * 4
    assert found["memory_mib"] is None  # of the killed process nothing is known
    assert 0.0 < found["measures"]["error"] < 90.0


def test_what_a_child_leaves_when_it_fails(tmp_path, capsys, monkeypatch):
    """What lacks data, memory or disk has no result; a signal has none either.

    Such a run is told of, not recorded, and tried again later. A folder of the name gendae, where
    the command is given, is not what the child runs.
    """
    (tmp_path / "gendae").mkdir()
    (tmp_path / "gendae/__init__.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    claim = claimed(tmp_path / "claim.json", 60.0)
    log = tmp_path / "log"

    ended = reproduction._process("json.tool", ["nowhere.json"], log, claim)
    assert (ended.code, "nowhere.json" in ended.said) == (2, True)
    assert ended.memory > 1.0

    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    (tmp_path / "killed.py").write_text(killed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        with pytest.raises(reproduction.Stopped, match="-9"):
            reproduction._process("killed", [], log, claim)

        file = table(tmp_path, a={"seeds": [0], "measures": {"error": QUICK}, "quick": True})
        missing = reproduction.Ended(LACKING, "MNIST is not on this machine", 1.0, 2.0, None)
        patch.setattr(reproduction, "_process", lambda *arguments: missing)
        assert gendae("reproduce", "a", "--tables", file, "--out", tmp_path / "out") == 1
        printed = capsys.readouterr()
        assert "not run: MNIST is not on this machine" in printed.out
        assert "none of the quick rows was run: a" in printed.err  # nothing was reproduced
        assert list((tmp_path / "out/records").iterdir()) == []


MISSING = "MNIST is not on this machine"


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"options": ["--data", "gendae.MNIST"]}, LACKING, MISSING),
        ({"options": ["--data", "gendae.MNIST", "--model.stack.sizes", "[784, 9]"]}, LACKING, ""),
        ({"measures": {"error": {}, "fid": {}}}, 1, ""),  # a classifier has no samples
        ({"measures": {"error": {}, "cosine": {}}}, 1, "no cosine of a BackpropRule's model"),
        ({"options": ["--model.stack.sizes", "[60, 9]"]}, 1, "60"),
    ],
)
def test_missing_data_are_no_failure_and_all_else_is(
    tmp_path, monkeypatch, capsys, changes, code, said
):
    short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"]
    row = {"seeds": [0], "measures": {"error": {}}} | changes
    row["options"] = [*short, *changes.get("options", [])]
    run = runs(table(tmp_path, a=row))["a-0"]
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("GENDAE_DATA", str(tmp_path / "empty"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    assert scores.main(str(reproduction._job(run, tmp_path / "root"))) == code
    last = capsys.readouterr().err.strip().split("\n")[-1]
    assert last.startswith("gendae: error: ")
    assert said in last


@pytest.mark.parametrize(
    ("result", "stated"),
    [
        ({"error": float("nan")}, "error is not a finite number"),
        ({"error": None}, "error is not a finite number"),
        ({"error": 4.5}, None),
    ],
)
def test_a_run_that_ended_is_begun_from_nothing_and_a_number_that_is_none_failed(
    tmp_path, monkeypatch, result, stated
):
    file = table(tmp_path, a={"seeds": [0], "measures": {"error": QUICK}, "quick": True})
    folder = Folder(tmp_path / "out", 1.0)
    run = runs(file)["a-0"]
    root = folder.root(run)
    begun_with = []

    def process(module, words, log, claim):
        begun_with.append("--ckpt_path" in json.loads((root / "job.json").read_text())["words"])
        last = root / f"000{len(begun_with)}/checkpoints/last.ckpt"
        last.parent.mkdir(parents=True)
        last.touch()
        measured = {"measures": result, "versions": scores.versions(), "sha256": {}}
        (root / "result.json").write_text(json.dumps(measured))
        return reproduction.Ended(0, "", 5.0, 2.0, None)

    monkeypatch.setattr(reproduction, "_process", process)
    words = ["reproduce", "a", "--tables", file, "--out", folder.path]
    for _ in range(2):
        assert gendae(*words) == (0 if stated is None else 1)
        assert folder.current(run)["error"] == stated
    assert begun_with == [False]

    folder.record_file(run).unlink()  # or --again, of a failed one
    gendae(*words, "--again")
    assert begun_with == [False, False]
    assert folder.current(run)["seconds"] == 5.0

    folder.record_file(run).unlink()
    (root / "record.json").unlink()  # as if the run had been killed
    gendae(*words)
    assert begun_with == [False, False, True]
    assert folder.current(run)["seconds"] is None  # the killed process's are not known


def test_annealing_measures_what_is_known_exactly(tmp_path):
    """log p(x) of a linear and Gaussian model, on drawn test images, and a gap of its own."""
    network = {"sizes": [64, 3], "activations": ["linear"], "visible": "linear", "noise": 1.0}
    prior = {"covariance": "identity", "variance_scale": 1.0}
    normal = {"class_path": "gendae.GaussianPrior", "init_args": prior}
    stack = {"class_path": "gendae.deep_autoencoder", "init_args": {**network, "prior": normal}}
    model = {"class_path": "gendae.KLRule", "init_args": {"stack": stack}}
    write_config(tmp_path / "small.yaml", {"model": model, "data": SMALL["data"]})
    annealing = {"images": 3, "chains": 16, "temperatures": 100, "drawn": 4, "hidden": "means"}
    job = {
        "words": [
            "fit",
            "--config",
            str(tmp_path / "small.yaml"),
            *QUIET,
            *RUN[2:],
            "--trainer.max_epochs",
            "1",
        ],
        "root": str(tmp_path),
        "resumed": None,
        "samples": 1,
        "measures": ["annealed", "gap", "bound"],
        "annealing": annealing,
        "model": "",
    }
    job["words"] += ["--trainer.default_root_dir", str(tmp_path)]

    measures = scores.carried_out(job)["measures"]
    trained = model_file.load(next(tmp_path.glob("*/checkpoints/last.ckpt")))
    g = trained.pairs[0].g
    covariance = g.weight @ g.weight.T + torch.eye(64)
    exact = torch.distributions.MultivariateNormal(g.bias, covariance)
    x = package.Digits().split("test").x
    expected = exact.log_prob(report.images_to_anneal(x, 3)).mean().item()
    assert measures["annealed"] == pytest.approx(expected, abs=0.2)
    assert abs(measures["gap"]) < 0.3
    below = exact.log_prob(x).mean().item() - measures["bound"]
    assert 0.0 < below < 1.0


def test_a_thread_that_fails_ends_the_others(tmp_path, monkeypatch):
    """What goes wrong is told at once, not when a long run beside it has ended."""
    file = table(tmp_path, a={"seeds": [0, 1], "measures": {"error": {}}})

    def carry_out(folder, run, claim):
        if run.seed == 1:
            raise RuntimeError("a defect")
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        claim.name_child(child.pid)
        raise reproduction.Stopped(f"{child.wait()}")

    monkeypatch.setattr(reproduce, "carry_out", carry_out)
    begun = time.monotonic()
    with pytest.raises(RuntimeError, match="a defect"):
        reproduce.reproduce("a", tables=file, out=str(tmp_path / "out"), processes=2)
    assert time.monotonic() - begun < 30.0


# -- which runs are begun -------------------------------------------------------------------------


@pytest.fixture
def begun(monkeypatch):
    """The names of runs that are begun, none of which is carried out; minutes pass as they say."""
    names = []
    minutes = [0.0]

    def carry_out(folder, run, claim):
        names.append(run.name)
        minutes[0] += run.row.minutes
        record(folder, run, 4.5)
        return folder.record(run)

    monkeypatch.setattr(reproduce, "carry_out", carry_out)
    monkeypatch.setattr(reproduce.Work, "minutes", property(lambda work: minutes[0]))
    return names


ORDER = ["swift-0", "slower-0", "swift-1", "slower-1", "cheap-0", "cheap-1", "long-0", "long-1"]


@pytest.mark.parametrize(("budget", "n"), [(None, 8), (7.0, 7), (2.0, 2), (0.5, 0), (1e9, 8)])
def test_cheap_and_quick_runs_first_and_none_that_does_not_fit(tmp_path, begun, budget, n):
    row = {"seeds": [0, 1], "measures": {"error": {}}}
    quick = {**row, "measures": {"error": QUICK}, "quick": True}
    rows = {
        "long": {**row, "minutes": 60},
        "slower": {**quick, "minutes": 1.2},
        "cheap": {**row, "minutes": 0.9},
        "swift": {**quick, "minutes": 0.8},
    }
    file = table(tmp_path, **rows)

    if n:
        lines = reproduce.reproduce(tables=file, out=str(tmp_path / "out"), budget=budget)
    else:
        with pytest.raises(
            reproduce.NotReproduced, match="none of the quick rows was run: slower, swift"
        ):
            reproduce.reproduce(tables=file, out=str(tmp_path / "out"), budget=budget)
        lines = (tmp_path / "out/report.md").read_text().splitlines()

    expected = ORDER if budget != 7.0 else ORDER[:6]
    assert begun == expected[:n]
    unfit = [line for line in lines if "did not fit the budget" in line]
    assert len(unfit) == (0 if n == 8 else {7: 1, 2: 2, 0: 4}[n])
    if budget is None:
        reproduce.reproduce(tables=file, out=str(tmp_path / "out"))
        assert begun == expected  # all are there: nothing is begun again


@pytest.mark.parametrize("again", [False, True])
def test_a_record_of_another_version_counts_for_nothing(tmp_path, begun, again, capsys):
    quick = {"seeds": [0, 1, 2], "measures": {"error": QUICK}, "quick": True}
    file = table(tmp_path, a=quick)
    folder = Folder(tmp_path / "out", 1.0)
    of = runs(file)
    record(folder, of["a-0"], 4.0)
    record(folder, of["a-1"], 99.0, digest="other", versions={"gendae": "0.0.9"})
    record(folder, of["a-2"], None)

    arguments = ["reproduce", "a", "--tables", file, "--out", tmp_path / "out"]
    code = gendae(*arguments, *(["--again"] if again else []))

    assert sorted(begun) == (["a-1", "a-2"] if again else [])
    assert code == (0 if again else 1)  # a-2 failed
    text = (tmp_path / "out/report.md").read_text()
    assert "99" not in text
    if again:
        assert "4.33 ± 0.29 (3)" in text

    known = json.loads(folder.record_file(of["a-0"]).read_text())
    damaged = [
        {**known, **change}
        for change in (
            {"measures": {}},
            {"measures": {"error": None}},
            {"measures": {"error": float("nan")}},
            {"error": 5},
            {"versions": {}},
            {"versions": None},
            {"seconds": "long"},
            {"sha256": []},
            {"command": None},
        )
    ]
    damaged.append({key: value for key, value in known.items() if key != "error"})
    for content in ("{", "[]", '{"digest": "x"}', *map(json.dumps, damaged)):
        capsys.readouterr()
        folder.record_file(of["a-0"]).write_text(content)
        assert gendae(*arguments) == 2
        assert "records/a-0.json is no record of a run; remove it" in one_line(capsys)

    folder.record_file(of["a-0"]).unlink()
    folder.record_file(of["a-0"]).mkdir()
    assert gendae(*arguments) == 2
    assert "records/a-0.json is no record of a run; remove it" in one_line(capsys)


# -- the report -----------------------------------------------------------------------------------


@pytest.fixture
def reported(tmp_path):
    """A folder with records of three rows; the file of tables."""
    quick = {"measures": {"error": {**ERROR, **QUICK}}, "quick": True}
    long = {"measures": {"error": {"measured": KNOWN}}}
    wide = {"measures": {"error": QUICK}}
    file = table(tmp_path, a=quick, b=long, c={**quick, "says": "a | b"}, d=wide)
    folder = Folder(tmp_path / "out", 1.0)
    of = runs(file)
    for seed, (a, b, c) in enumerate([(4.5, 9.0, 4.1), (5.0, 9.5, 4.8), (5.5, 9.1, 4.9)]):
        record(folder, of[f"a-{seed}"], a)
        record(folder, of[f"b-{seed}"], b)
        record(folder, of[f"c-{seed}"], c)
        record(folder, of[f"d-{seed}"], a)
    return file, folder, of


def test_published_beside_measured_with_differences_by_seed(reported):
    file, folder, of = reported

    lines = reproduce.reproduce(tables=file, out=str(folder.path))
    text = (folder.path / "report.md").read_text()
    page = (folder.path / "report.html").read_text()

    error = (statistics.stdev([4.5, 5.0, 5.5]) ** 2 / 3 + 0.3**2) ** 0.5
    own = f"| 5 ± 0.3 (Nobody 1999) | 4.50 ± 0.50 (3) | 5.00 ± 0.50 (3) | +0.00 = {0 / error:+.1f}"
    assert own in text
    assert "| differs from the record |" in text  # b: 9.2 where 4.5 was known
    assert r"a \| b" in text
    differences = [9.0 - 4.5, 9.5 - 5.0, 9.1 - 5.5]
    se = statistics.stdev(differences) / 3**0.5
    mean = statistics.fmean(differences)
    assert f"{mean:+.2f} ± {se:.2f} se (3) | +3.60 .. +4.50 | 0.25 | this folder" in text
    assert "61 | 400 | unknown | dddddddddddd, eeeeeeeeeeee" in text

    assert page.count('class="green">reproduced') == 3
    assert page.count('class="orange">differs') == 1
    assert "a | b" in page and "http" not in page
    assert lines[-3:] == [f"written: {folder.path / name}" for name in reproduce.WRITTEN[-1:]] + [
        f"written: {folder.path / name}" for name in reproduce.WRITTEN[:-1]
    ]
    assert len(json.loads((folder.path / "records.json").read_text())) == 12

    for seed in (0, 2):  # of some seeds, the same ones of the record are looked at
        folder.record_file(of[f"a-{seed}"]).unlink()
    record(folder, of["a-1"], 5.9)  # 1.4 from the record's mean, 0.9 from its seed 1
    line = reproduction_report.line_of(of["a-1"].row, "error", folder, {})
    assert (line.here, line.state) == ({1: 5.9}, "reproduced (1 of 3 seeds)")
    assert reproduction_report.off_by(line) == f"+0.90 = {0.9 / 0.3:+.1f} se"

    for seed in (0, 2):  # one long seed has no standard error: 90 where 5 was known is not judged
        folder.record_file(of[f"b-{seed}"]).unlink()
    record(folder, of["b-1"], 90.0)
    line = reproduction_report.line_of(of["b-1"].row, "error", folder, {})
    assert line.state == "one seed, not judged (1 of 3 seeds)"

    reproduce.reproduce("c", tables=file, out=str(folder.path))
    assert "| a | rule a | error" in (folder.path / "report.md").read_text()  # of all rows
    assert len(json.loads((folder.path / "records.json").read_text())) == 8


@pytest.mark.parametrize(
    ("row", "values", "code", "state"),
    [
        ("a", [5.5, 6.4, 5.6], 1, "NOT reproduced"),  # 1.33 away, 1 is tolerated
        ("a", [3.0, 4.0, 3.6], 0, "reproduced"),  # 0.97
        ("a", [4.5, None, 4.5], 1, "failed"),
        ("b", [99.0, 99.0, None], 0, "failed: diverged"),  # long rows do not count
        ("d", [99.0, 99.0, 99.0], 0, "differs from the record"),  # by the tolerance
        ("d", [3.0, 4.0, 3.6], 0, "reproduced"),
    ],
)
def test_a_red_quick_row_is_an_exit_status_of_one(reported, capsys, row, values, code, state):
    file, folder, of = reported
    for seed, value in enumerate(values):
        record(folder, of[f"{row}-{seed}"], value)

    assert gendae("reproduce", "all", "--tables", file, "--out", folder.path) == code

    printed = capsys.readouterr()
    (line,) = [line for line in printed.out.splitlines() if line.startswith(f"{row} ")]
    assert line.endswith(f"  {state}")
    assert (f"not what the record says: {row}" in printed.err) == (code == 1)
    assert "report.html" in printed.out
    page = (folder.path / "report.html").read_text()
    assert ('class="red"' in page) == (code == 1)


# -- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("mnist-dtp-tan", "did you mean mnist-dtp-tanh?"),
        ("--budget 0", "--budget=0.0: a number > 0.0 is needed"),
        ("--budget -3", "--budget=-3.0"),
        ("--budget nan", "--budget=nan"),
        ("--stale 0", "--stale=0.0"),
        ("--processes 0", "--processes=0"),
        ("--tables nowhere.yaml", "nowhere.yaml"),
        ("quick --fill nowhere.md", "nowhere.md"),
        ("digits-bp digits-dtp", "one argument too many"),
        ("digits-bp --out /dev/null", "--out /dev/null is a file"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_made(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduce, "carry_out", lambda *a: pytest.fail("a run began"))

    assert gendae("reproduce", *words.split()) == 2
    assert said in one_line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_energy_is_read_where_it_can_be(tmp_path):
    for name, used in (("intel-rapl:0", 5), ("intel-rapl:1", 7), ("intel-rapl:0:0", 1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{used * 1_000_000}\n")
        (tmp_path / name / "max_energy_range_uj").write_text("10000000\n")
    before = energies(tmp_path)
    (tmp_path / "intel-rapl:1/energy_uj").write_text("1000000")  # begun anew: 4 J
    (tmp_path / "intel-rapl:0/energy_uj").write_text("6500000")

    assert joules(before, energies(tmp_path)) == 5.5
    (tmp_path / "intel-rapl:1/energy_uj").unlink()
    assert energies(tmp_path) == {}
    assert joules(before, energies(tmp_path)) is None
