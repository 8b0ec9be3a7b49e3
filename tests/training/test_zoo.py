"""Shipped models: their cards, and what is judged where they are made again."""

import json
import math
from pathlib import Path

import pytest
import torch
import yaml

from benchmarks import ship
from benchmarks import zoo as cards
from gendae.commands import reproduction_report
from gendae.storage import model_file
from gendae.storage.shipped import manifest
from gendae.training import reproduction, scores, zoo
from gendae.training.configurations import check_options
from gendae.training.reproduction import Folder, config_of, in_order
from gendae.training.rows import read_tables
from tests.commands.test_reproduce import RUN, SMALL, record

ROOT = Path(__file__).parents[2]
MANIFEST = manifest()
ROWS = {row.name: row for row in read_tables("zoo")["zoo"].rows}


@pytest.mark.parametrize("entry", MANIFEST, ids=lambda entry: entry["name"])
def test_a_model_has_a_row_a_card_and_a_picture_of_its_own_weights(entry):
    row = ROWS[entry["name"]]
    config = config_of(row)
    if row.options:  # each look takes half a second
        check_options(config, row.options)
    assert ship.options_of(entry["command"]) == entry["options"] or entry["note"]
    assert row.seeds == (entry["seed"],)

    known = [row.measures[name] for name in row.measures if name != "weights"]
    share = entry["metrics"].get("test_error")
    se = entry["metrics"].get("parzen_se")
    if share is not None:
        se = 100 * math.sqrt(share * (1 - share) / entry["test"])
    tolerances = [] if entry["kind"] == "filling model" else [4 * se]
    assert [measure.tolerance for measure in known] == pytest.approx(tolerances)

    picture = ROOT / f"docs/zoo/{entry['name']}.png"
    assert cards.model_of(picture) == entry["sha256"]
    assert picture.stat().st_size <= cards.MOST


def test_pages_are_what_the_manifest_says():
    assert cards.PAGE.read_text() == cards.page(MANIFEST), "python -m benchmarks.zoo"
    assert cards.README.read_text() == cards.readme(MANIFEST), "python -m benchmarks.zoo"

    names = [entry["name"] for entry in MANIFEST]
    headings = [line[3:] for line in cards.PAGE.read_text().splitlines() if line[:3] == "## "]
    assert headings == names == sorted(names) == list(ROWS)
    assert sorted(file.stem for file in cards.FOLDER.glob("*.png")) == names


def test_the_last_bit_is_seen_and_half_precision_is_compared_as_it_is_stored():
    w = torch.randn(30, 20, generator=torch.Generator().manual_seed(0))
    other = w.clone()
    other.view(torch.int32)[3, 4] += 1

    off = zoo.difference({"w": other, "new": w}, {"w": w})
    exact = (other.double() - w.double()).abs().max() / w.double().abs().max()
    assert off == exact.item() > 0.0
    assert zoo.difference({"w": w.clone()}, {"w": w}) == 0.0
    assert zoo.difference({"w": other.half()}, {"w": w.half()}) == 0.0
    assert zoo.difference({"b": w}, {"b": torch.zeros_like(w)}) == w.double().abs().max()

    for again in ({}, {"w": w[:, :19]}, {"w": w.half()}):
        with pytest.raises(ValueError, match="w of the model made again is not of the shape"):
            zoo.difference(again, {"w": w})


HERE = {"processor": "A", "threads": 1, "versions": {"torch": "2.13", "code": "1"}}
LATER = HERE | {"versions": {"torch": "2.13", "code": "2"}}
THERE = HERE | {"processor": "B"}


@pytest.mark.parametrize(
    ("known", "weights", "made", "state"),
    [
        ({"again": {"weights": 0.0, "error": 4.0, "made": HERE}}, 0.0, THERE, "bit-equal"),
        ({"again": {"weights": 0.0, "error": 4.0, "made": HERE}}, 1e-9, LATER, "NOT reproduced"),
        ({"again": {"weights": 0.0, "error": 4.0, "made": HERE}}, 1e-9, THERE, "processor B"),
        ({"again": {"weights": 0.1, "error": 4.0, "made": HERE}}, 0.1, HERE, "not promised"),
        ({"made": HERE}, 1e-9, HERE, "NOT reproduced"),
        ({"made": {"where": "elsewhere"}}, 1e-9, HERE, "not promised"),
        ({"made": None}, 1e-9, HERE, "not promised"),
    ],
)
def test_the_same_bits_are_asked_for_where_they_were_found(
    tmp_path, monkeypatch, known, weights, made, state
):
    (entry,) = (entry for entry in MANIFEST if entry["name"] == "mnist-bp-tanh")
    entry = {**entry, "again": None, "made": None, "minutes": 1.0, **known}
    monkeypatch.setattr(zoo, "manifest", lambda: [entry])
    (row,) = read_tables("zoo")["zoo"].rows
    (run,) = in_order([row])
    folder = Folder(tmp_path, 1.0)

    record(folder, run, 1.5, measures={"error": 1.5, "weights": weights}, made=made)
    lines = {line.name: line for line in reproduction_report.lines_of([row], folder, {})}

    assert state in lines["weights"].state
    assert lines["weights"].red == (state == "NOT reproduced" and "again" in known)
    assert lines["error"].state == "reproduced"
    record(folder, run, 9.0, measures={"error": 9.0, "weights": weights}, made=made)
    error = reproduction_report.line_of(row, "error", folder, {})
    assert reproduction_report.verdict(error.state) in (
        "NOT reproduced",
        "differs from the record",
    )


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The entry of a small classifier, shipped in half precision in a manifest of its own."""
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    words = [
        "fit",
        "--config",
        str(tmp_path / "small.yaml"),
        *RUN[2:],
        "--trainer.max_epochs",
        "2",
    ]
    words += ["--seed_everything", "3", "--trainer.default_root_dir", str(tmp_path / "runs")]
    run = scores.fit.main([*words, *scores.QUIET])

    (template,) = (entry for entry in MANIFEST if entry["name"] == "mnist-bp-tanh")
    file = tmp_path / "small.safetensors"
    model_file.save(model_file.load(run / "checkpoints/best.ckpt"), file, half=True)
    entry = template | {"name": "small", "file": file.name, "seed": 3, "test": 299}
    entry["options"] = [*RUN[2:], "--trainer.max_epochs", "2"]
    monkeypatch.setattr(zoo, "manifest", lambda: [entry])
    monkeypatch.setattr(zoo, "shipped_files", lambda pattern: {"small": file})
    return entry, file


def test_a_model_made_again_has_the_same_bits_and_its_manifest_says_so(
    tmp_path, monkeypatch, small
):
    """By the process of a run, with one weight changed, and as `benchmarks.zoo` enters it."""
    entry, file = small
    table = {"config": "small.yaml", "options": entry["options"], "seeds": [3], "model": "small"}
    tables = {"tables": {"t": {"rows": {"small": {**table, "measures": {"weights": {}}}}}}}
    (tmp_path / "tables.yaml").write_text(yaml.safe_dump(tables))
    (run,) = in_order(read_tables(str(tmp_path / "tables.yaml"))["t"].rows)

    for change in (0.0, 0.25):
        root = tmp_path / f"root-{change}"
        stack = model_file.load(file)
        with torch.no_grad():
            stack.output.bias[0] += change
        model_file.save(stack, file, half=True)
        assert scores.main(str(reproduction._job(run, root))) == 0

        result = json.loads((root / "result.json").read_text())
        assert (result["measures"]["weights"] == 0.0) == (change == 0.0)
        assert result["made"]["threads"] == torch.get_num_threads()

    noted = entry
    monkeypatch.setattr(cards, "manifest", lambda: [dict(noted)])
    monkeypatch.setattr(cards, "README", tmp_path / "README.md")
    for weights, made, kept in ((0.5, HERE, 0.5), (0.0, HERE, 0.0), (0.5, THERE, 0.0)):
        records = [{"row": "small", "error": None, "measures": {"weights": weights}, "made": made}]
        (tmp_path / "records.json").write_text(json.dumps(records))
        cards.note_again(tmp_path)
        (noted,) = json.loads((tmp_path / "manifest.json").read_text())
        assert noted["again"] == {"weights": kept, "made": HERE}
