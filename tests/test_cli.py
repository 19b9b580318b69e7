"""What is proven of the command line: every command's way through, every exit code, and what goes to which stream.

`main` runs in this process; what only real ones can show is in test_cli_processes.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

import jsonschema  # type: ignore[import-untyped]
import pytest
import torch

from dlf import __version__, shipped
from dlf.cli import main
from dlf.commands import init as init_command

IRIS = (
    "data: {type: iris, batch_size: 16}\nmodel: {layers: [{type: linear, units: 4}]}\ntrain: {epochs: 2, threads: 1}\n"
)
ROOT = Path(__file__).parent.parent


class Ended(NamedTuple):
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str


Dlf = Callable[..., Ended]


@pytest.fixture
def dlf(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Dlf:
    """Runs a command in an empty folder that holds iris.yaml."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "iris.yaml").write_text(IRIS)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: object) -> Ended:
        with pytest.raises(SystemExit) as caught:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return Ended(caught.value.code, captured.out, captured.err)

    return run


def done(ended: Ended) -> str:
    assert ended.code == 0, ended
    return ended.out


def only_run() -> Path:
    (run,) = Path("runs").iterdir()
    return run


# --- every command's way through ------------------------------------------------------------------------------------


def test_train_then_evaluate_then_summarize(dlf: Dlf) -> None:
    trained = dlf("train", "iris.yaml", "--name", "mine", "seed=3")
    assert "accuracy" in done(trained)
    assert "epoch 2/2" in trained.err
    run = only_run()
    assert run.name.startswith("mine-")
    assert json.loads((run / "run.json").read_text())["seed"] == 3
    assert "accuracy" in done(dlf("evaluate", "latest"))
    assert (run / "evaluation-test.json").is_file()
    assert "linear" in done(dlf("summarize", run.name))
    assert "linear" in done(dlf("summarize", "iris.yaml", "model.layers.0.units=5"))


def test_json_is_one_document_and_all_of_stdout(dlf: Dlf) -> None:
    trained = json.loads(done(dlf("train", "iris.yaml", "--json")))
    assert trained["status"] == "completed"
    assert trained["data"] == "iris"
    assert trained["epochs"] == 2
    found = json.loads(done(dlf("evaluate", trained["run"], "--split", "val", "--json")))
    assert found["accuracy"] == trained["best"]["val_accuracy"]  # R5: the number that training wrote
    assert found["samples"] == 12  # 150 - 30 for the test; a tenth of the rest
    summary = json.loads(done(dlf("summarize", trained["path"], "--json")))
    assert summary["parameters"] == 4 * 4 + 4 + 4 * 3 + 3
    jsonschema.Draft202012Validator.check_schema(json.loads(done(dlf("schema"))))


def test_json_is_ascii_whatever_the_names(dlf: Dlf) -> None:
    rows = "".join(f"{i},{'süß' if i % 2 else 'bitter'}\n" for i in range(40))
    Path("t.csv").write_text("x,taste\n" + rows, encoding="utf-8")
    Path("t.yaml").write_text("data: {type: csv, path: t.csv, target: taste}\n")
    dlf("train", "t.yaml", "train.epochs=1")
    out = done(dlf("evaluate", "latest", "--json"))
    assert out.isascii()
    assert json.loads(out)["classes"] == ["bitter", "süß"]


def test_quiet_says_nothing_on_stderr(dlf: Dlf) -> None:
    loud, quiet = dlf("train", "iris.yaml"), dlf("train", "iris.yaml", "--quiet")
    assert quiet.err == "" != loud.err
    assert "accuracy" in done(quiet)


def test_resume_of_a_finished_run_and_beyond(dlf: Dlf) -> None:
    first = json.loads(done(dlf("train", "iris.yaml", "--json")))
    again = json.loads(done(dlf("train", "--resume", "latest", "--json")))
    assert again == first
    longer = json.loads(done(dlf("train", "--resume", first["run"], "train.epochs=3", "--json")))
    assert (longer["run"], longer["epochs"]) == (first["run"], 3)


def test_a_run_repeats_from_its_own_config(dlf: Dlf) -> None:
    first = json.loads(done(dlf("train", "iris.yaml", "--json")))
    second = json.loads(done(dlf("train", Path(first["path"]) / "config.yaml", "--json")))
    assert second["run"] != first["run"]
    weights = "checkpoints/last/model.safetensors"
    assert (Path(second["path"]) / weights).read_bytes() == (Path(first["path"]) / weights).read_bytes()


def test_plot_writes_a_picture(dlf: Dlf) -> None:
    done(dlf("summarize", "iris.yaml", "--plot", "net.svg"))
    assert "<svg" in Path("net.svg").read_text()


def test_version_and_help(dlf: Dlf) -> None:
    assert done(dlf("--version")) == f"dlf {__version__}\n"
    words = done(dlf("--help"))
    for command in ("train", "evaluate", "summarize", "schema", "init"):
        assert command in words
        assert "Usage: dlf " + command in done(dlf(command, "-h"))
    assert done(dlf()) == words  # no words: what there is to say


# --- init and shipped experiments -----------------------------------------------------------------------------------


def test_init_writes_the_shipped_file_with_its_comments(dlf: Dlf) -> None:
    assert done(dlf("init", "mnist")) == "mnist.yaml\n"
    assert Path("mnist.yaml").read_text() == (ROOT / "configs/mnist.yaml").read_text()


def test_init_never_overwrites(dlf: Dlf) -> None:
    Path("lesson.csv").write_text("mine")
    refused = dlf("init", "lesson")
    assert refused.code == 2
    assert "lesson.csv is there already" in refused.err
    assert not Path("lesson.yaml").exists(), "half of it was written"
    assert Path("lesson.csv").read_text() == "mine"
    assert dlf("init", "iris.yaml").code == 2


def test_init_takes_data_files_along(dlf: Dlf) -> None:
    assert done(dlf("init", "lesson")).split() == ["lesson.yaml", "lesson.csv"]
    assert done(dlf("init", "lesson", "other.yaml")) == "other.yaml\n"  # the same data are there already
    Path("folder").mkdir()
    assert done(dlf("init", "lesson", "folder")).split() == ["folder/lesson.yaml", "folder/lesson.csv"]
    done(dlf("train", "folder/lesson.yaml", "train.epochs=1", "--quiet"))


def test_init_says_why_it_cannot_write(dlf: Dlf) -> None:
    failed = dlf("init", "mnist", "nowhere/m.yaml")
    assert failed.code == 5
    assert failed.err == f"error: cannot write {Path('nowhere/m.yaml')}: No such file or directory\n"
    assert "Did you mean 'mnist'?" in dlf("init", "mnits").err


def test_shipped_names_and_files(dlf: Dlf, tmp_path: Path) -> None:
    assert {"mnist", "digits", "lesson"} <= set(shipped.names())
    (tmp_path / "mnist").mkdir()  # a folder of that name is in nobody's way
    assert shipped.find("mnist").name == "mnist.yaml"
    assert shipped.find("./mnist") == Path("mnist")  # a path stays a path
    (tmp_path / "digits").write_text(IRIS)
    assert shipped.find("digits") == Path("digits")
    for name in ("x" * 300, "a\0b", "", "nowhere"):
        assert dlf("train", name).code == 2


# --- exit codes and messages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["trian"], 2, "'trian'"),
        (["train", "--epochs", "3"], 2, "--epochs"),
        (["evaluate"], 2, "RUN"),
        (["evaluate", "latest", "--split", "dev"], 2, "'dev'"),
        (["train"], 2, "which experiment?"),
        (["train", "nope"], 2, "no file and no shipped experiment"),
        (["train", "nope.yaml"], 2, "no such file"),
        (["train", "."], 2, "folder"),
        (["train", "iris.yaml", "epochs=3"], 2, "override 'epochs=3'  epochs  unknown key here"),
        (["train", "iris.yaml", "--name", "../x"], 2, "--name: '../x' cannot name a run"),
        (["train", "iris.yaml", "--name", "CON"], 2, "--name: 'CON' cannot name a run: the name is reserved"),
        (["train", "iris.yaml", "--device", "gpu"], 2, "--device: expected auto, cpu, cuda or cuda:N, got 'gpu'"),
        (["evaluate", "latest", "--device", "gpu"], 2, "--device: expected auto"),
        (["train", "--resume", "latest", "--name", "x"], 2, "exclude each other"),
        (["summarize", "nope"], 2, "no file and no shipped experiment"),
        (["train", "iris.yaml", "data={type: mnist, download: false}"], 3, "mnist"),
        (["evaluate", "latest"], 4, "there are no runs"),
        (["train", "--resume", "x"], 4, "no run 'x'"),
        (["evaluate", "../" * 50], 4, "no run"),
        (["evaluate", "x" * 300], 4, "no run"),
        (["train", "iris.yaml", "--device", "cuda:99"], 5, "no device cuda:99"),
        (["train", "iris.yaml", "--runs-dir", "iris.yaml/runs"], 5, "--runs-dir"),
        (["train", "iris.yaml", "optimizer={type: sgd, lr: 1.0e+30}"], 6, "diverged"),
    ],
)
def test_exit_code(words: list[str], code: int, message: str, dlf: Dlf) -> None:
    failed = dlf(*words)
    assert failed.code == code, failed
    assert failed.out == ""
    said = [line for line in failed.err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert message in failed.err
    assert "Traceback" not in failed.err
    assert Path("runs").exists() == (code == 6), "a run directory where nothing was trained"


def test_typers_own_errors_look_like_ours(dlf: Dlf) -> None:
    assert dlf("train", "--xyz").err.endswith("--xyz\nSee dlf train --help\n")


@pytest.mark.parametrize("name", ["123", "true", "null", "1e3", "012"])
def test_a_name_is_text_whatever_it_looks_like(name: str, dlf: Dlf) -> None:
    assert json.loads(done(dlf("train", "iris.yaml", "--name", name, "--json")))["run"].startswith(f"{name}-")


def test_without_the_data_but_with_a_fallback(dlf: Dlf) -> None:
    Path("m.yaml").write_text("data: {type: mnist, download: false, fallback: {type: iris}}\ntrain: {epochs: 1}\n")
    trained = dlf("train", "m.yaml")
    assert "training on iris instead of mnist" in trained.err
    assert "about iris, not mnist" in done(trained)
    info = json.loads((only_run() / "run.json").read_text())
    assert (info["data"], info["requested_data"]) == ("iris", "mnist")
    assert json.loads(done(dlf("evaluate", "latest", "--json")))["requested_data"] == "mnist"


def test_what_the_data_are_not_for_is_said_with_the_place(dlf: Dlf) -> None:
    Path("f.yaml").write_text("data: iris\nloss: mse\n")
    for command in ("train", "summarize"):
        failed = dlf(command, "f.yaml")
        assert (failed.code, "f.yaml:2:7  loss" in failed.err) == (2, True)


# --- what the machine says, and bugs --------------------------------------------------------------------------------


def raising(error: BaseException) -> Callable[..., NoReturn]:
    def fail(*words: object, **options: object) -> NoReturn:
        raise error

    return fail


def test_what_a_file_says_does_not_steer_the_terminal(dlf: Dlf, tmp_path: Path) -> None:
    """ESC [ 2 J clears a terminal, and U+202E turns what follows around."""
    (tmp_path / "f.yaml").write_text('data: {type: csv, path: "\\e[2J\\u202eé.csv"}\n')
    ended = dlf("train", "f.yaml")
    assert ended.code == 3
    assert f"there is no file {tmp_path}/\\x1b[2J\\u202eé.csv; " in ended.err
    assert ended.err.count("\n") == 1


def allocation_failure() -> RuntimeError:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.uint8)
    return caught.value


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "out of memory. Use a smaller data.batch_size or network."),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory. Use a smaller"),
        (allocation_failure(), "out of memory. Use a smaller"),
        (OSError(28, "No space left on device", "runs/x"), "No space left on device: runs/x"),
        (PermissionError(13, "Permission denied"), "Permission denied"),
    ],
)
def test_what_the_machine_refuses_is_one_message(
    error: Exception, words: str, dlf: Dlf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(init_command, "init", raising(error))
    failed = dlf("init", "mnist")
    assert failed.code == 5
    assert failed.err.startswith(f"error: {words}")
    assert failed.out == ""


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), RuntimeError("shapes differ"), ValueError("x")])
def test_a_bug_is_not_dressed_up(error: Exception, dlf: Dlf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(init_command, "init", raising(error))
    with pytest.raises(type(error)):
        main(["init", "mnist"])


def test_an_interruption_ends_with_130(dlf: Dlf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(init_command, "init", raising(KeyboardInterrupt()))
    assert dlf("init", "mnist").code == 130
