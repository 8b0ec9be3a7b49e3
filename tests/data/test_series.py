"""Files of sequences: what they say, and what is refused, in one line that names the array."""

import numpy as np
import pytest
import torch

from gendae.data.series import ChannelScale, Series, read_series

HEADER = """#a comment
@problemName Waves
@timeStamps false
@classLabel true up down
@data
"""
X = np.arange(24.0).reshape(3, 4, 2)


def written(folder, **arrays):
    path = folder / "s.npz"
    np.savez(path, **arrays)
    return path


def test_arrays_with_lengths(tmp_path):
    x = X.copy()
    x[1, 2:] = np.nan  # padding may be anything
    labels = np.array([[0, 1, 2, 3], [1, 1, 1, 1], [-1, -1, 0, 0]])
    series = read_series(written(tmp_path, x=x, lengths=[4, 2, 3], y=labels))

    assert torch.equal(series.there.sum(1), torch.tensor([4, 2, 3]))
    assert torch.equal(series.x[1, :2], torch.tensor(X[1, :2]).float())
    assert not series.x[1, 2:].any()
    assert series.y.tolist() == [[0, 1, 2, 3], [1, 1, -1, -1], [-1, -1, 0, -1]]

    rows = series.padded(5).rows(masked=True).view(3, 5, 3)
    assert rows[..., 0].sum(1).tolist() == [4, 2, 3]
    assert torch.equal(rows[..., 1:], series.padded(5).x)
    assert series.padded(5).y.tolist()[0] == [0, 1, 2, 3, -1]


def test_arrays_of_one_length(tmp_path):
    numbers = np.array([0.5, 1.5, 2.5])
    series = read_series(written(tmp_path, x=X.astype(np.int16), y=numbers))
    assert series.lengths is None
    assert series.y.dtype == torch.float32
    assert torch.equal(series.rows(masked=False), torch.tensor(X).float().flatten(1))

    np.save(tmp_path / "s.npy", X)
    assert read_series(tmp_path / "s.npy").y is None


def test_steps_that_are_not_observed_may_hold_anything(tmp_path):
    x = X.copy()
    x[0, 1] = np.inf
    observed = np.ones((3, 4), bool)
    observed[0, 1] = False
    series = read_series(written(tmp_path, x=x, observed=observed))

    assert torch.equal(series.observed, torch.from_numpy(observed))
    assert not series.x[0, 1].any()
    assert series.there.all()


def test_channels_are_standardised_over_the_steps_that_are_there():
    x = torch.randn(20, 6, 2, generator=torch.Generator().manual_seed(0)) * 3.0 + 5.0
    x[..., 1] = 7.0
    series = Series(x, torch.arange(20) % 6 + 1)
    scale = ChannelScale.of(series)
    scaled = series.scaled(scale)

    steps = scaled.x[series.there]
    assert steps[:, 0].mean().abs() < 1e-6
    assert (steps[:, 0].std(correction=0) - 1.0).abs() < 1e-6
    assert not steps[:, 1].any()
    assert not scaled.x[~series.there].any()

    again = ChannelScale.recorded(scale.fact())
    assert torch.equal(again.mean, scale.mean)
    assert torch.equal(again.deviation, scale.deviation)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"z": X, "y": [0, 1, 1]}, "no array x, the sequences; the arrays are z, y"),
        ({"x": X[0]}, "x has shape (4, 2) and type float64; numbers of shape"),
        ({"x": X.astype(str)}, "x has shape (3, 4, 2) and type <U"),
        ({"x": X[:, :0]}, "x has shape (3, 0, 2), and is empty; T = 0"),
        ({"x": np.array([X[0], X[1, :2]], object)}, "beside lengths"),
        ({"x": X, "lengths": [4, 5, 1]}, "lengths holds numbers from 1 to 5; x has 4 steps"),
        ({"x": X, "lengths": [4, 0, 1]}, "lengths holds numbers from 0 to 4; x has 4 steps"),
        ({"x": X, "lengths": [4, 1]}, "lengths has shape (2,) and type int64; whole numbers"),
        ({"x": X, "lengths": [4.0, 1.0, 1.0]}, "lengths has shape (3,) and type float64"),
        ({"x": X * np.nan}, "x holds 24 NaN or infinite values"),
        ({"x": X * 1e40}, "x holds 23 NaN or infinite values"),
        ({"x": X, "observed": np.ones((3, 4))}, "observed has shape (3, 4) and type float64"),
        ({"x": X, "observed": np.ones((3, 2), bool)}, "observed has shape (3, 2) and type bool"),
        ({"x": X, "y": [0, 1]}, "y has shape (2,) and type int64; class indices"),
        ({"x": X, "y": [0, -1, 1]}, "y holds labels from -1 to 1; class indices are >= 0"),
        ({"x": X, "y": [[0, -2, 1, 1]] * 3}, "y holds labels from -2 to 1; class indices are >="),
        ({"x": X, "y": [True, False, True]}, "y has shape (3,) and type bool"),
        ({"x": X, "y": [0.5, np.inf, 0.0]}, "y holds 1 NaN or infinite values"),
    ],
)
def test_arrays_that_are_refused(tmp_path, arrays, words):
    path = written(tmp_path, **arrays)
    with pytest.raises(ValueError) as refusal:
        read_series(path)

    message = str(refusal.value)
    assert message.startswith(str(path))
    assert words in message
    assert "\n" not in message


def test_text_of_archives(tmp_path):
    path = tmp_path / "s.ts"
    path.write_text(HEADER + "1,2,3:4,5,6:up\n7,8:9,10:down\n")
    series = read_series(path)
    assert series.lengths.tolist() == [3, 2]
    assert series.y.tolist() == [0, 1]
    assert series.x[0].tolist() == [[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]
    assert series.x[1, 2].tolist() == [0.0, 0.0]

    path.write_text("@targetLabel true\n@data\n1,2:0.5\n3,4:-1\n")
    assert read_series(path).y.tolist() == [0.5, -1.0]
    path.write_text("@classLabel false\n@data\n1,2\n3,4\n")
    assert read_series(path)[1:] == (None, None, None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1,2:up\n", "stands before @data"),
        ("@classLabel true a\n", "has no line @data"),
        (HEADER, "holds no sequences"),
        (HEADER + "1,?:up\n", "line 6: numbers, separated by commas"),
        (HEADER + "1,2:up\n1,nan:up\n", "line 7 holds 1 NaN"),
        (HEADER + "1,2:3:up\n", "line 6: channels of equal length are needed, not of [1, 2]"),
        (HEADER + "1,2:left\n", "line 6: class 'left'; @classLabel names ['up', 'down']"),
        (HEADER + "1,2:up\n1,2:3,4:up\n", "different numbers of channels"),
        ("@timeStamps true\n@data\n1,2\n", "without time stamps"),
        ("@targetLabel true\n@data\n1,2:up\n", "line 3: 'up'; a finite number is needed"),
    ],
)
def test_text_that_is_refused(tmp_path, text, words):
    path = tmp_path / "s.ts"
    path.write_text(text)
    with pytest.raises(ValueError) as refusal:
        read_series(path)

    assert words in str(refusal.value)
    assert str(path) in str(refusal.value)


def test_other_files_are_refused(tmp_path):
    for name, words in (("s.csv", "unknown kind of sequences"), ("", "a folder")):
        path = tmp_path / name
        if name:
            path.write_text("1")
        with pytest.raises(ValueError, match=f"{path}: {words}|unknown kind"):
            read_series(path)
    with pytest.raises(FileNotFoundError):
        read_series(tmp_path / "none.npz")
    (tmp_path / "s.ts").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="UTF-8"):
        read_series(tmp_path / "s.ts")
