"""`gendae impute`: a table of one's own, and the same with its empty cells filled."""

import re

import numpy as np
import pytest

from gendae.data.cells import read_cells
from tests.commands.test_cli import gendae, one_line

#: What stands around empty cells: quotes, blanks, line ends and a last line without one.
PARTS = [
    'id,"height, cm", weight ,"said"\r\na, 150.0,50,"x, ""y"""\r\nb,',
    ",60.50,\r\nc,170,",
    ",\r\n\r\nd,1.8e2,80,z\r\ne,190,",
    ",z",
]
TABLE = f'{PARTS[0]}""{PARTS[1]}NA{PARTS[2]}{PARTS[3]}'
NUMBER = r"-?[\d.]+(?:e[+-]?\d+)?"


def written(path, lines):
    path.write_bytes("".join(lines).encode())
    return path


def test_a_table_of_ones_own_is_filled(tmp_path, monkeypatch, capsys):
    """One command: from rows with gaps to rows without."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.RandomState(0)
    first = draw.normal(size=400)
    truth = np.stack([first, 3 * first + 50, -first], 1) + draw.normal(size=(400, 3)) / 20
    gaps = draw.rand(*truth.shape) < 0.2
    cells = np.where(gaps, "", np.char.mod("%.5f", truth))
    lines = [f"{','.join(row)}\n" for row in cells]
    written(tmp_path / "mine.csv", ["a,b,c\n", *lines])

    assert gendae("impute", "mine.csv", "--out", "filled.csv", "--epochs", 60) == 0
    told = capsys.readouterr().out
    assert f"{gaps.sum()} cells filled in 400 rows x 3 columns: filled.csv" in told
    assert float(re.search(r"not see: ([\d.]+) of", told)[1]) < 0.5

    filled = read_cells("filled.csv")
    assert (np.array(filled.records)[~gaps] == cells[~gaps]).all()

    _, values = filled.numbers()
    error = (values - truth) / truth.std(0)
    assert np.sqrt(np.square(error[gaps]).mean()) < 0.5


def test_given_bytes_stay_as_they_are(tmp_path, capsys):
    table = written(tmp_path / "t.csv", [TABLE])
    out = tmp_path / "filled.csv"
    assert gendae("impute", table, "--out", out, "--epochs", 2) == 0
    assert "left as they are (2 cells empty): id, said" in capsys.readouterr().out

    pattern = NUMBER.join(re.escape(part) for part in PARTS)
    assert re.fullmatch(pattern, out.read_bytes().decode())

    first = out.read_bytes()
    assert gendae("impute", table, "--out", out, "--epochs", 2) == 0
    assert out.read_bytes() == first


@pytest.mark.parametrize(
    ("content", "value", "filled"),
    [
        ('name,x\n"Ann",\n"Bob",2.0\n', 0.5, 'name,x\n"Ann",0.5\n"Bob",2.0\n'),
        ('x\n1\n\n"2"\nNA\n', 3.25, 'x\n1\n\n"2"\n3.25\n'),
        ('n\tx\ty\n"a"\t\t"b"\n"c"\t1\t"d"\n', 2, 'n\tx\ty\n"a"\t2\t"b"\n"c"\t1\t"d"\n'),
        ('\ufeff"name",x\n1,2\n4,\n', 3, '\ufeff"name",x\n1,2\n4,3\n'),
        ("\ufeffx,y\n1,2\n4,\n", 3, "\ufeffx,y\n1,2\n4,3\n"),
        ('"a,b,c";x\n1;2\n1;\n', 3, '"a,b,c";x\n1;2\n1;3\n'),
        ('"a\n,,""";x\n1;2\n1;\n', 3, '"a\n,,""";x\n1;2\n1;3\n'),
        (
            "x\n1700000000\n1700086400\n?\n",
            17e8 + 0.4,
            "x\n1700000000\n1700086400\n1700000000.4\n",
        ),
        ("x\n2e-07\n5e-7\nNA\n", 3.51e-7, "x\n2e-07\n5e-7\n0.000000351\n"),
        ("x\n0\n0\nNA\n", 0, "x\n0\n0\n0\n"),
    ],
)
def test_cells_stay_and_are_filled_in_the_digits_of_their_column(tmp_path, content, value, filled):
    table = read_cells(written(tmp_path / "t.csv", [content]))
    columns, values = table.numbers()
    values[np.isnan(values)] = value
    assert table.filled(columns, values).decode() == filled


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "a header and at least one row"),
        ("a,b\n", "a header and at least one row"),
        ("a,b\n1,2\n3\n", "row 3 has 1 cells; the header has 2"),
        ('a,b\n1,"2\n', "row 2 has a quote that does not close"),
        ("a,b\n1,2\n3,4\n", "nothing to fill"),
        ("a,b\nx,\ny,z\n", "nothing to fill"),
        ("a,b\n1,\n2,\n", "column 'b' is empty in every row"),
        ("a,b\n1,inf\n2,\n", "column 'b' holds infinite numbers"),
    ],
)
def test_tables_that_cannot_be_filled(tmp_path, capsys, content, words):
    table = written(tmp_path / "t.csv", [content])
    out = tmp_path / "out.csv"
    assert gendae("impute", table, "--out", out) == 2
    assert words in one_line(capsys)
    assert not out.exists()


def test_a_table_is_not_written_over(tmp_path, capsys):
    table = written(tmp_path / "t.csv", [TABLE])
    assert gendae("impute", table, "--out", table) == 2
    assert "is a file that this command reads" in one_line(capsys)
    assert table.read_bytes() == TABLE.encode()
