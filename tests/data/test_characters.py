"""The characters of a text."""

import pytest
import torch

from gendae import Characters

TEXT = "abcab cabba " * 50  # 600 characters
TAIL = "abz" * 20


@pytest.fixture
def folder(tmp_path):
    for name in ("1.txt", "2.txt"):
        (tmp_path / name).write_text(TEXT + TAIL)

    return tmp_path


def told(data, name):
    """The labels of a split as text, without those that are not there."""
    symbols = [*data.vocabulary, "?"]
    y = data.split(name).y
    return "".join(symbols[i] for i in y[y >= 0])


def test_the_label_of_a_step_is_the_next_character(folder):
    data = Characters(str(folder / "1.txt"), steps=10, test_fraction=60 / 660, valid_fraction=0.1)
    assert data.vocabulary == [" ", "a", "b", "c"]
    assert data.shape == (10, 5)

    x, y, _ = data.split("train")
    read = x.view(-1, 10, 5).argmax(2)
    assert torch.equal(x.view(-1, 10, 5).sum(2), torch.ones(len(x), 10))
    assert torch.equal(read[:, 1:], y[:, :-1])
    assert torch.equal(read[1:, 0], y[:-1, -1])
    assert TEXT[1:].startswith(told(data, "train"))
    assert len(x) == (600 - 66 - 1) // 10

    assert told(data, "test") == ("ab?" * 20)[1:51]  # z was never seen in training


def test_every_held_out_character_is_told_once_after_some_context(folder):
    data = Characters(str(folder / "1.txt"), steps=10, context=6, valid_fraction=0.2)
    y = data.split("valid").y
    assert (y[:, :6] == -1).all()
    assert (y[:, 6:] >= 0).all()

    text = (TEXT + TAIL)[660 - 66 - 132 : 660 - 66]
    assert text[7:].startswith(told(data, "valid"))
    assert (data.split("train").y >= 0).all()


def test_each_text_of_a_folder_has_its_own_end(folder):
    one = Characters(str(folder / "1.txt"), steps=10)
    both = Characters(str(folder), steps=10)
    for name in ("train", "valid", "test"):
        x = one.split(name).x
        assert torch.equal(both.split(name).x, torch.cat([x, x]))

    assert both.facts() == {"vocabulary": one.vocabulary}


def test_what_is_refused(folder, tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"\xff\xff")
    (tmp_path / "none").mkdir()
    for arguments, words in (
        ({"path": str(tmp_path / "bad.txt")}, "bad.txt is no text in UTF-8"),
        ({"path": str(tmp_path / "none")}, "holds no texts"),
        ({"path": str(folder / "1.txt"), "steps": 100}, "valid part is shorter than steps=100"),
        ({"path": "x", "steps": 0}, "steps=0"),
        ({"path": "x", "steps": 5, "context": 5}, "context=5"),
        ({"path": "x", "valid_fraction": 0.6, "test_fraction": 0.5}, "sum below 1"),
    ):
        with pytest.raises(ValueError, match=words):
            Characters(**arguments).setup()
    with pytest.raises(FileNotFoundError):
        Characters(str(tmp_path / "nowhere.txt")).setup()
