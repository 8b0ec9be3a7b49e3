"""Tables of results: what a file may say, and that the committed record is what `docs/` says."""

import json
import re
import statistics
from pathlib import Path

import pytest
import yaml

from benchmarks import likelihoods, rules
from gendae.commands import reproduction_report
from gendae.training.mistakes import read_yaml
from gendae.training.reproduction import config_of
from gendae.training.rows import chosen, read_tables

ROOT = Path(__file__).parents[2]
TABLES = read_tables()
OF_RULES = {row.name: row for table in read_tables("rules").values() for row in table.rows}
OF_DECODERS = {row.name: row for row in read_tables("likelihoods")["likelihoods"].rows}
ROWS = {row.name: row for table in TABLES.values() for row in table.rows}

ROW = {"config": "digits-dtp-tanh", "measures": {"error": {"published": 1.9}}}


def tables(**row):
    return {"tables": {"t": {"rows": {"a": {**ROW, **row}}}}}


def quick(**measure):
    return tables(quick=True, measures={"error": measure})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1], "holds no tables"),
        ({"tables": {"t": {}}}, "table t has no rows"),
        ({"tables": {"t": {"rows": {"a": ROW}, "agains": "a"}}}, "did you mean against?"),
        ({"tables": {"t": {"rows": {"a": ROW}, "against": "b"}}}, "against='b' is none"),
        ({"tables": {"t": {"rows": {"t": ROW}}}}, "'t' is there twice"),
        ({"tables": {"t": {"rows": {"../a": ROW}}}}, "row ../a: a name has letters"),
        ({"tables": {"t": {"rows": {"a": None}}}}, "row a is no mapping"),
        (tables(sedes=[0]), "no entry 'sedes'; accepted"),
        (tables(seeds=[0, 0]), "seeds=[0, 0]"),
        (tables(seeds=[-1]), "seeds=-1"),
        (tables(minutes=0), "minutes=0"),
        (tables(samples=0), "samples=0"),
        (tables(measures={}), "row a has no measures"),
        (tables(measures={"eror": {}}), "did you mean error?"),
        (tables(measures={"error": {"published": "few"}}), "published='few'"),
        (tables(measures={"error": {"measured": [1.0]}}), "values by seed"),
        (tables(measures={"error": {"measured": {0: None}}}), "measured=None"),
        (tables(command="x"), "either a config, or the command"),
        (tables(config="nowhere"), "no configuration 'nowhere'"),
        ({"tables": {"t": {"rows": {"all": ROW}}}}, "'all' is there twice"),
        ({"tables": {"t": {"rows": {"a": ROW}, "title": 5}}}, "table t: title=5; text"),
        ({"tables": {"t": {"rows": {"a": ROW}, "against": ["a"]}}}, "against=['a'] is none"),
        ("tables: {t: {rows: {a: {}, a: {}}}}", "'a' is there twice, below line 1"),
        (tables(options=5), "row a: options=5; a list of words"),
        (tables(options=None), "row a: options=None; a list of words"),
        (tables(options="--x 3"), "row a: options='--x 3'; a list of words"),
        (tables(options=[[3]]), "row a: options=[[3]]; a list of words"),
        (tables(seeds=[[0]]), "row a: seeds=[0]: a whole number"),
        (tables(says=5), "row a: says=5; text"),
        (tables(quick="no"), "row a: quick='no'; true or false"),
        (tables(minutes=True), "row a: minutes=True"),
        (tables(measures={1: {}}), "row a: 1: no such measure"),
        (tables(measures={"error": []}), "row a: error is no mapping"),
        (tables(measures={"error": {"error": -1.0}}), "row a: error: error=-1.0: a number >= 0"),
        (tables(measures={"error": {"source": 5}}), "row a: error: source=5; text"),
        (tables(measures={"error": {"record": 5}}), "row a: error: record=5; a file"),
        (quick(measured={0: 1.0}, tolerance=-1.0), "tolerance=-1.0: a number >= 0"),
        (quick(tolerance=1.0), "a quick row needs"),
        (quick(measured={0: 1.0}), "a quick row needs"),
        (tables(annealing=5), "row a: annealing is no mapping"),
        (tables(annealing={"image": 1}), "did you mean images?"),
        (tables(annealing={"images": 0}), "row a: annealing: images=0"),
        (tables(annealing={"temperatures": 1.5}), "row a: annealing: temperatures=1.5"),
        (tables(annealing={"hidden": "mean"}), "annealing: hidden='mean'"),
        (tables(measures={"gap": {}}, annealing={"chains": 2}), "gap: annealing with a number"),
    ],
)
def test_a_file_of_tables_is_refused_in_one_line(tmp_path, content, words):
    file = tmp_path / "tables.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))

    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(words)) as refusal:
        read_tables(str(file))
    assert "\n" not in str(refusal.value)


def committed(record):
    """The values by seed at the place that a record names."""
    text = (ROOT / record["file"]).read_text()
    entries = json.loads(text) if text[0] in "[{" and not record["file"].endswith("l") else None
    if entries is None:
        entries = [json.loads(line) for line in text.splitlines()]
    for key in record.get("at", ()):
        entries = entries[key]

    values = {}
    for entry in entries:
        if all(entry.get(key) == value for key, value in record.get("where", {}).items()):
            value = entry
            for key in record["value"].split("."):
                value = value[key]
            values[entry["seed"]] = record.get("times", 1) * value
    return values


@pytest.mark.parametrize("name", [*ROWS, *OF_RULES, *OF_DECODERS])
def test_the_record_of_a_row_is_what_its_file_says(name):
    """What was measured is read again where it was written, or found in the text of docs/.

    Hand-written tables of results.md have the numbers of their rows.
    """
    row = (ROWS | OF_RULES | OF_DECODERS)[name]
    if row in (*TABLES["classifiers"].rows, *TABLES["stochastic"].rows):
        values = row.measures["error"].measured.values()
        mean, deviation = statistics.fmean(values), statistics.stdev(values)
        said = rf"{mean:.2f} (±|\+-) {deviation:.2f} %"
        assert re.search(said, (ROOT / "docs/results.md").read_text())

    for key, measure in row.measures.items():
        if not measure.measured:
            continue
        if "text" in measure.record:
            text = (ROOT / measure.record["text"]).read_text()
            mean = statistics.fmean(measure.measured.values())
            assert f"{mean:.2f}" in text, (name, mean)
            assert all(f"{value:.2f}" in text for value in measure.measured.values())
            continue

        values = committed(measure.record)
        assert values.keys() == measure.measured.keys()
        for seed, value in measure.measured.items():
            assert value == pytest.approx(values[seed], abs=6e-3 if key == "ll" else 6e-5)


def test_the_page_of_rules_has_its_record():
    """Fourteen local rules at least; a number in another place of the page is seen."""
    text = (ROOT / "docs/rules.md").read_text()
    measured = [row for row in OF_RULES.values() if row.measures["error"].measured]

    assert len(measured) > 14
    assert rules.page(text, read_tables("rules")) == text
    assert rules.page(text.replace("| 2.09 ± ", "| 2.08 ± "), read_tables("rules")) == text


def test_enough_rows_are_quick_and_every_configuration_is_there():
    assert sum(row.quick for row in ROWS.values()) >= 8
    assert all(row.minutes <= 2.0 for row in ROWS.values() if row.quick)
    for row in ROWS.values():
        if row.config:
            assert config_of(row)["model"]["class_path"].startswith("gendae.")

    assert chosen(TABLES, "all") == list(ROWS.values())
    assert {row.name for row in chosen(TABLES, "quick")} == {n for n, r in ROWS.items() if r.quick}
    assert chosen(TABLES, "classifiers") == list(TABLES["classifiers"].rows)
    assert chosen(TABLES, "mnist-dtp-tanh") == [ROWS["mnist-dtp-tanh"]]


@pytest.mark.parametrize("file", ["README.md", "docs/results.md", "docs/how-to/reproduce.md"])
def test_the_blocks_of_the_documentation_are_what_the_command_makes(file):
    text = (ROOT / file).read_text()
    of_rules = read_yaml("field")["rules"]

    assert "<!-- reproduce: " in text
    assert reproduction_report.filled(text, TABLES, of_rules) == text


BEGIN, END = "<!-- reproduce: digits -->\n", "<!-- /reproduce -->\n"


@pytest.mark.parametrize(
    ("text", "rules", "words"),
    [
        ("<!-- reproduce: nothing -->\n" + END, {}, "nothing -->: no such table"),
        ("by hand\n", {}, "no block <!-- reproduce"),
        (f"{BEGIN}by hand\n{BEGIN}{END}", {}, "reproduce: digits --> has no <!-- /reproduce"),
        (f"{BEGIN}{END}{BEGIN}by hand\n", {}, "reproduce: digits --> has no <!-- /reproduce"),
        (f"{BEGIN}{END}by hand\n{END}", {}, "/reproduce --> ends no block"),
        ("<!-- reproduce: rules -->\n" + END, {"A": {"use": "x"}}, "rules: A: text is needed"),
        ("<!-- reproduce: rules -->\n" + END, {"A": 5}, "rules: A: text is needed"),
    ],
)
def test_what_cannot_be_filled_is_refused(text, rules, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        reproduction_report.filled(text, TABLES, rules)


def test_the_page_of_likelihoods_has_its_record():
    text = likelihoods.PAGE.read_text()
    rows = list(OF_DECODERS.values())
    assert sum(bool(row.measures["annealed"].measured) for row in rows) > 8
    assert likelihoods.page(text, rows) == text

    changed = re.sub(r"\| -\d+\.\d ", "| -1.0 ", text, count=1)
    assert likelihoods.page(changed, rows) == text != changed
