"""`dlf predict`: every kind of file, what it is answered with, and what is said of those that cannot be read."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from dataset_files import Array, write_image
from PIL import Image
from test_datasets_images import bmp_header

import dlf
from dlf.cli import main
from dlf.display.predicted import show_predictions


class Ended(NamedTuple):
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Predict = Callable[..., Ended]

TABLE = "size,town,note,kind\n" + "".join(
    f"{i / 10},{'Ulm' if i % 3 else 'Bonn'},n{i},{'big' if i > 30 else 'small'}\n" for i in range(60)
)


def trained(folder: Path, data: dict[str, Any], *overrides: str) -> str:
    config = {"data": data, "model": {"layers": [{"type": "linear", "units": 8}]}}
    return dlf.train(config, "train.device=cpu", "train.epochs=4", *overrides, runs=folder).path


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    return dlf.train("digits", "train.device=cpu", "train.epochs=4", runs=tmp_path_factory.mktemp("digits")).path


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("table")
    (folder / "t.csv").write_text(TABLE)
    return trained(folder, {"type": "csv", "path": str(folder / "t.csv"), "drop": ["note"]})


@pytest.fixture
def predict(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Predict:
    """Runs `dlf predict` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Ended:
        with pytest.raises(SystemExit) as caught:
            main(["predict", *map(str, words)])
        captured = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return Ended(caught.value.code, captured.out, captured.err)

    return run


def answered(digits: str) -> tuple[Array, Array]:
    """Test digits of the run, (n, 1, 8, 8), and what its network says of them."""
    run = dlf.load(digits)
    x = run.data.test.x[:20]
    assert isinstance(x, torch.Tensor)
    return x.numpy(), run.predict(x).numpy()


# --- pictures -------------------------------------------------------------------------------------------------------


def test_a_picture_is_answered_as_the_network_answers_its_pixels(digits: str, predict: Predict) -> None:
    x, probability = answered(digits)
    for index in range(3):
        write_image(Path(f"{index}.png"), x[index, 0])
    ended = predict(digits, "0.png", "1.png", "2.png", "--as-is", "--json")
    assert ended.code == 0
    assert ended.json["framing"] is None
    assert ended.json["data"] == "digits"
    for index, found in enumerate(ended.json["predictions"]):
        best = np.argsort(-probability[index])[:3]
        assert (found["file"], found["sample"]) == (f"{index}.png", None)
        assert [one["class"] for one in found["top"]] == [str(label) for label in best]
        # in another batch the last bits of a matrix product may differ
        np.testing.assert_allclose([one["probability"] for one in found["top"]], probability[index][best], rtol=1e-5)
        assert (found["class"], found["probability"]) == (found["top"][0]["class"], found["top"][0]["probability"])


def test_what_was_done_is_said_and_can_be_turned_off(digits: str, predict: Predict) -> None:
    x, probability = answered(digits)
    large = 255 - np.pad(x[0, 0].repeat(20, 0).repeat(20, 1), ((100, 40), (10, 300)))
    write_image(Path("a.png"), large)
    framed, as_is = predict(digits, "a.png"), predict(digits, "a.png", "--as-is")
    assert framed.code == as_is.code == 0
    assert "light background inverted, " in framed.out
    assert "of 470 x 300 scaled to" in framed.out
    assert "470 x 300 resized to 8 x 8" in as_is.out
    found = predict(digits, "a.png", "--json").json
    assert found["framing"] == {"extent": 8, "by_mass": False, "centre": [3.5, 3.5], "light": False}
    assert found["predictions"][0]["class"] == str(probability[0].argmax())


def test_the_checkpoint_is_the_result_or_the_named_one(digits: str, predict: Predict) -> None:
    write_image(Path("a.png"), answered(digits)[0][0, 0])
    best, last = (
        predict(digits, "a.png", "--json").json,
        predict(digits, "a.png", "--checkpoint", "last", "--json").json,
    )
    assert (best["checkpoint"], last["checkpoint"]) == ("best", "last")
    assert last["epoch"] == 4


def test_the_picture_comes_from_stdin(digits: str, predict: Predict, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(Path("a.png"), answered(digits)[0][0, 0])
    expected = predict(digits, "a.png", "--json").json["predictions"][0]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path("a.png").read_bytes())))
    found = predict(digits, "-", "--json").json["predictions"][0]
    assert found == {**expected, "file": "-"}


def test_files_that_cannot_be_read_are_named_and_the_others_done(digits: str, predict: Predict) -> None:
    write_image(Path("good.png"), answered(digits)[0][0, 0])
    write_image(Path("blank.png"), np.zeros((30, 30), np.uint8))
    Path("notes.txt").write_text("no picture")
    Path("bomb.bmp").write_bytes(bmp_header(50_000, 50_000))
    Path("folder").mkdir()
    files = ["notes.txt", "bomb.bmp", "good.png", "blank.png", "folder", "gone.png", "esc\x1b[31m.png"]
    ended = predict(digits, *files, "--json")
    assert ended.code == 3
    assert [found["file"] for found in ended.json["predictions"]] == ["good.png"]
    assert [found["file"] for found in ended.json["failures"]] == [file for file in files if file != "good.png"]
    assert ended.err.startswith("error: 1 of 7 files were read. Of the others:\nnotes.txt: not an intact PNG, ")
    for part in ("bomb.bmp: ", "decompression bomb", "blank.png: is blank", "name its files, such as folder/*.png"):
        assert part in ended.err
    assert "there is no file " in ended.err
    assert "\x1b" not in ended.err + predict(digits, *files).out
    alone = predict(digits, "notes.txt")
    assert alone.code == 3
    assert alone.err.startswith("error: nothing could be read:\nnotes.txt: not an intact PNG, ")


def test_colours_are_only_resized(tmp_path: Path, predict: Predict) -> None:
    rng = np.random.default_rng(0)
    for label, name in enumerate(("blue", "red")):
        for k in range(12):
            pixels = rng.integers(0, 90, (12, 12, 3), np.uint8)
            pixels[..., 0 if label else 2] += 150
            write_image(tmp_path / "pets" / name / f"{k}.png", pixels)
    data = {"type": "image_folder", "path": str(tmp_path / "pets"), "size": 8, "color": True}
    run = trained(tmp_path, data, "train.epochs=60")
    write_image(Path("mine.png"), np.full((40, 30, 3), (200, 20, 20), np.uint8))
    found = predict(run, "mine.png", "--json").json
    assert found["framing"] is None
    assert found["predictions"][0]["done"] == "30 x 40 resized to 8 x 8"
    assert found["predictions"][0]["class"] == "red"
    assert len(found["predictions"][0]["top"]) == 2


# --- rows -----------------------------------------------------------------------------------------------------------


def test_rows_are_read_by_the_names_of_their_columns(table: str, predict: Predict) -> None:
    run = dlf.load(table)
    assert run.data.features == ("size", "town=Bonn", "town=Ulm")
    Path("mine.csv").write_text("town,size\nUlm,5.5\n Bonn ,0.25\n")
    found = predict(table, "mine.csv", "--json").json["predictions"]
    expected = run.predict(torch.tensor([[5.5, 0, 1], [0.25, 1, 0]])).numpy()
    for k, prediction in enumerate(found):
        assert (prediction["file"], prediction["sample"]) == ("mine.csv", k + 1)
        assert prediction["class"] == run.classes[expected[k].argmax()]  # type: ignore[index]
        assert prediction["probability"] == pytest.approx(expected[k].max(), rel=1e-5)
        assert "done" not in prediction


def test_the_training_table_itself_may_be_given(table: str, predict: Predict) -> None:
    Path("all.csv").write_text(TABLE)  # with the target, and with what was dropped
    assert len(predict(table, "all.csv", "--json").json["predictions"]) == 60


@pytest.mark.fault("D6")
@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("size,colour,shape\n1,2,3\n", ["column 'town' is missing", "'colour' is unknown", "'shape' is unknown"]),
        ("size,town,shape\n1,Ulm,3\n", ["column 'shape' is unknown"]),
        ("size,town\n1,Rome\n2,Ulm\n", ["m.csv:2  column 'town'  'Rome' is no word of training; expected one of"]),
        ("size,town\nx,Ulm\n,Ulm\n", ["m.csv:2  column 'size'  'x' is not a number", "m.csv:3  column 'size'  ''"]),
        ("size,town\nnan,Ulm\n1e39,Ulm\n", ["m.csv:2", "m.csv:3"]),
        ("size,town\n1\n", ["m.csv is ragged"]),
        ("size;town\n1;Ulm\n", ["column 'size' is missing", "column 'size;town' is unknown"]),
        ("", ["m.csv is empty"]),
        ("size,town\n", ["no row"]),
    ],
)
def test_rows_that_do_not_fit(text: str, messages: list[str], table: str, predict: Predict) -> None:
    Path("m.csv").write_text(text)
    ended = predict(table, "m.csv")
    assert ended.code == 3
    for message in messages:
        assert message in ended.err


def test_a_regression_answers_in_the_units_of_its_data(tmp_path: Path, predict: Predict) -> None:
    run = trained(tmp_path, {"type": "diabetes"})
    loaded = dlf.load(run)
    x = loaded.data.test.x[:2]
    names = loaded.data.features
    assert isinstance(x, torch.Tensor)
    assert names is not None
    rows = [",".join(names), *(",".join(map(repr, row)) for row in x.tolist())]
    Path("mine.csv").write_text("\n".join(rows))
    ended = predict(run, "mine.csv", "--json")
    values = [found["values"] for found in ended.json["predictions"]]
    np.testing.assert_allclose(values, loaded.predict(x).numpy(), rtol=1e-5)
    assert 25 < values[0][0] < 346
    assert f"mine.csv:1  {values[0][0]:.2f}" in predict(run, "mine.csv").out


def test_one_column(tmp_path: Path, predict: Predict) -> None:
    (tmp_path / "t.csv").write_text("a,b\n" + "".join(f"{i},{2 * i + 0.5}\n" for i in range(40)))
    run = trained(tmp_path, {"type": "csv", "path": str(tmp_path / "t.csv")})
    Path("m.csv").write_text("a\n3\n4\n")
    assert len(predict(run, "m.csv", "--json").json["predictions"]) == 2


# --- arrays ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "other.npz"])
def test_arrays_are_samples_as_they_are(name: str, digits: str, predict: Predict) -> None:
    x, probability = answered(digits)
    if name == "x.npy":
        np.save(name, x[:, 0])
    else:
        np.savez_compressed(name, **{name.split(".", maxsplit=1)[0]: x})  # type: ignore[arg-type]
    found = predict(digits, name, "--json").json["predictions"]
    assert [int(one["class"]) for one in found] == probability.argmax(1).tolist()
    assert [one["sample"] for one in found] == list(range(1, 21))


@pytest.mark.fault("D7")
@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((2, 9, 9), np.uint8)}, r"samples of shape (1, 9, 9); the network takes uint8 images of"),
        ({"x": np.zeros((2, 64), np.float32)}, r"samples of shape (64,); the network takes uint8 images"),
        ({"a": np.zeros(3), "b": np.zeros(3)}, "holds a, b; expected x, or one array"),
        ({"x": np.array([None, 1])}, "pickle"),
    ],
)
def test_arrays_that_do_not_fit(arrays: dict[str, Array], message: str, digits: str, predict: Predict) -> None:
    np.savez("a.npz", **arrays)  # type: ignore[arg-type]
    ended = predict(digits, "a.npz")
    assert ended.code == 3
    assert message in ended.err


def test_columns_without_names_need_an_array(tmp_path: Path, predict: Predict) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "t.npz", x=rng.normal(size=(40, 3)), y=np.arange(40) % 2)
    run = trained(tmp_path, {"type": "npz", "path": str(tmp_path / "t.npz")})
    Path("m.csv").write_text("a,b,c\n1,2,3\n")
    ended = predict(run, "m.csv")
    assert ended.code == 3
    assert "the 3 columns of the training data have no names" in ended.err
    np.save("m.npy", np.ones((2, 3)))
    assert len(predict(run, "m.npy", "--json").json["predictions"]) == 2


# --- shown ----------------------------------------------------------------------------------------------------------


def test_the_sheet_shows_what_the_network_saw(digits: str, predict: Predict) -> None:
    x, _ = answered(digits)
    write_image(Path("a$x$.png"), 255 - x[0, 0].repeat(9, 0).repeat(9, 1))
    assert predict(digits, "a$x$.png", "--picture", "sheet.png").code == 0
    with Image.open("sheet.png") as sheet:
        assert sheet.info["Title"] == "dlf predict"
        first = np.asarray(sheet.convert("L"))
    assert first.min() < 20
    assert predict(digits, "a$x$.png", "--picture", "sheet.png").code == 0  # replaces a sheet
    np.save("x.npy", x)
    assert predict(digits, "x.npy", "--picture", "sheet.png").code == 0
    with Image.open("sheet.png") as sheet:
        assert np.asarray(sheet).shape != first.shape


def test_a_sheet_replaces_no_other_file(digits: str, table: str, predict: Predict) -> None:
    write_image(Path("a.png"), answered(digits)[0][0, 0])
    before = Path("a.png").read_bytes()
    ended = predict(digits, "a.png", "--picture", "a.png")
    assert (ended.code, Path("a.png").read_bytes()) == (2, before)
    assert "no sheet of dlf predict" in ended.err
    assert predict(digits, "a.png", "--picture", "a.jpg").code == 2
    assert predict(digits, "a.png", "--picture", "no/a.png").code == 5
    Path("m.csv").write_text("town,size\nUlm,5.5\n")
    assert "takes rows of numbers" in predict(table, "m.csv", "--picture", "s.png").err


def test_lines_fit_80_columns_and_steer_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = "transparent made white, light background inverted, 14 specks left out, 1420 x 1706 of 2600 x 2200 scaled"
    top = [{"class": f"a class with a long name {k}", "probability": 0.999 - k / 3} for k in range(3)]
    one = {"file": "a/very/long/path/to/a/picture/\x1b[31mof-a-digit.png", "sample": None, "done": done}
    result = {"run": "r", "checkpoint": "best", "epoch": 3, "data": "mnist", "requested_data": "mnist"}
    from dlf.display import streams

    monkeypatch.setattr(streams, "PIPED_WIDTH", 80)
    show_predictions({**result, "predictions": [{**one, **top[0], "top": top}, {**one, "values": [1.5, -2.0]}]})
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100  # three long names; those of digits take 70
    assert not any("\x1b" in line for line in lines)
    assert sum("14 specks" in line for line in lines) == 2


def test_the_function_returns_what_the_command_prints(digits: str, predict: Predict) -> None:
    write_image(Path("a.png"), answered(digits)[0][0, 0])
    Path("b.png").write_text("")
    found = dlf.predict(digits, Path("a.png"), "b.png")
    assert json.loads(json.dumps(found)) == predict(digits, "a.png", "b.png", "--json").json
    assert [failure["file"] for failure in found["failures"]] == ["b.png"]
