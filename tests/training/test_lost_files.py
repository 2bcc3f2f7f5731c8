"""One file of a run's folder is deleted or cut short: what the same command, ``evaluate`` and ``report`` do then."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from killing import Killed, assert_same_run, kill_at_step, state_of
from own_cases import short
from training_cases import TINY

from fastat.cli import main
from fastat.support.files import load_checkpoint, save_checkpoint
from fastat.training import checkpoint, load_network, mending, train_configured
from fastat.training.event_log import has_events

TRAIN = [
    "train", "--model", "mlp", "--width", "8", "--epochs", "3", "--train-size", "96", "--batch-size", "32",
    "--val-size", "20", "--attack-steps", "1", "--eval-size", "20", "--lr", "0.02", "--checkpoint-every", "0",
    "--tensorboard", "--device", "cpu",
]  # fmt: skip
FIGURE = "figures/accuracy_vs_eps.png"
EXAMPLES = "figures/adversarial_examples.png"
WAYS = ("deleted", "cut short")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run whose best epoch is not its last, the same one stopped within the epoch after its best, and right
    at the end of that."""
    root = tmp_path_factory.mktemp("runs")
    main([*TRAIN, "--out", str(root / "finished")])
    best = load_checkpoint(root / "finished" / "best.pt")["epoch"]
    assert best < 3
    for name, step in (("within", 3 * best + 1), ("at-best", 3 * best)):
        with pytest.MonkeyPatch.context() as patched:
            kill_at_step(patched, step)
            with pytest.raises(Killed):
                main([*TRAIN, "--out", str(root / name)])
        assert load_checkpoint(root / name / "checkpoint.pt")["step"] == step % 3
    return root


@pytest.fixture
def copied(runs, tmp_path):
    """Copies one of these runs, and loses a file of it."""

    def copy(name: str, file: str, way: str) -> Path:
        folder = tmp_path / "run"
        shutil.copytree(runs / name, folder)
        lose(folder, file, way)
        return folder

    return copy


def lose(folder: Path, file: str, way: str) -> None:
    (found,) = folder.glob(file)
    if way == "deleted":
        found.unlink()
    elif way == "cut short":
        content = found.read_bytes()
        found.write_bytes(content[: len(content) // 2])


def again(folder: Path, capsys, *more: str) -> str:
    capsys.readouterr()
    main([*TRAIN, *more, "--out", str(folder)])
    return capsys.readouterr().out


def texts(folder: Path) -> dict[str, object]:
    """What the files say that depend on no clock."""
    found = {name: json.loads((folder / name).read_text()) for name in ("config.json", "environment.json")}
    results = json.loads((folder / "results.json").read_text())
    return found | {"results": {name: value for name, value in results.items() if "seconds" not in name}}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("file", ["config.json", "environment.json", "metrics.jsonl"])
@pytest.mark.parametrize("name", ["finished", "within"])
def test_what_the_checkpoint_has_is_made_again(runs, copied, capsys, name, file, way):
    folder = copied(name, file, way)
    said = again(folder, capsys)
    assert f"{folder}: made again from the checkpoint: {file}\n" in said
    assert ("finished" in said) == (name == "finished") != ("continues after" in said)
    assert_same_run(runs / "finished", folder)
    assert texts(folder) == texts(runs / "finished")
    if name == "finished":
        assert (folder / file).read_bytes() == (runs / name / file).read_bytes()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("file", ["results.json", FIGURE, EXAMPLES])
def test_what_was_measured_is_measured_again(runs, copied, capsys, monkeypatch, file, way):
    folder = copied("finished", file, way)
    kill_at_step(monkeypatch, 0)  # none is taken
    assert "evaluating on 20 test images" in again(folder, capsys)
    assert texts(folder) == texts(runs / "finished")
    for name in (FIGURE, EXAMPLES):
        assert (folder / name).read_bytes().endswith(b"IEND\xaeB`\x82")
    assert "holds this run, finished" in again(folder, capsys)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["finished", "within"])
def test_events_are_written_again(runs, copied, capsys, name, way):
    folder = copied(name, "tensorboard/events*", way)
    again(folder, capsys)
    assert has_events(folder)
    assert "holds this run, finished" in again(folder, capsys)
    assert_same_run(runs / "finished", folder)


def test_a_deleted_checkpoint_is_named(runs, copied, capsys):
    said = again(copied("finished", "checkpoint.pt", "deleted"), capsys)
    assert "has no checkpoint.pt: the run cannot be made longer" in said and "20 test images, 3 epochs" in said


@pytest.mark.parametrize("lost", ["checkpoint.pt", "config.json", "results.json"])
@pytest.mark.parametrize("more", [("--eval-size", "10"), ("--epochs", "4")])
def test_without_its_checkpoint_a_finished_run_is_not_trained_again(copied, capsys, lost, more):
    folder = copied("finished", "checkpoint.pt", "deleted")
    (folder / lost).unlink(missing_ok=True)
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    with pytest.raises(SystemExit, match=rf"without its checkpoint\.pt.* --which best.*delete {folder}/best\.pt"):
        again(folder, capsys, *more)
    assert before == {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_its_remedies(runs, copied, capsys):
    folder = copied("finished", "checkpoint.pt", "deleted")
    main(["evaluate", str(folder), "--which", "best", "--eval-size", "10"])
    (folder / "best.pt").unlink()
    assert "the run starts again" in again(folder, capsys, "--eval-size", "10")
    assert_same_run(runs / "finished", folder)


def test_without_its_checkpoint_an_unfinished_run_starts_again_and_says_so(runs, copied, capsys):
    folder = copied("within", "checkpoint.pt", "deleted")
    assert f"{folder} has no checkpoint.pt: the run starts again, from its first step" in again(folder, capsys)
    assert_same_run(runs / "finished", folder)


@pytest.mark.parametrize("name", ["finished", "within"])
def test_a_broken_checkpoint_is_named_with_the_remedy(runs, copied, capsys, name):
    folder = copied(name, "checkpoint.pt", "cut short")
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    with pytest.raises(SystemExit, match=r"checkpoint\.pt .*[Bb]ring back a copy of it, or delete it"):
        again(folder, capsys)
    assert before == {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def lose_best(folder: Path, way: str) -> None:
    if way == "of another epoch":
        save_checkpoint(folder / "best.pt", load_checkpoint(folder / "best.pt") | {"epoch": 17})
    else:
        lose(folder, "best.pt", way)


@pytest.mark.parametrize("way", [*WAYS, "of another epoch"])
def test_a_lost_best_network_is_made_again_where_the_checkpoint_has_it(runs, copied, capsys, way):
    folder = copied("at-best", "metrics.jsonl", "deleted")
    lose_best(folder, way)
    assert "made again from the checkpoint: metrics.jsonl, best.pt" in again(folder, capsys)
    assert_same_run(runs / "finished", folder)
    one, other = (load_checkpoint(place / "best.pt") for place in (runs / "finished", folder))
    assert one["epoch"] == other["epoch"] and all(one["model"][key].equal(other["model"][key]) for key in one["model"])


@pytest.mark.parametrize("way", [*WAYS, "of another epoch"])
def test_elsewhere_it_is_named_before_anything_is_trained(runs, copied, capsys, monkeypatch, way):
    folder = copied("within", "metrics.jsonl", "deleted")
    lose_best(folder, way)
    before = (folder / "checkpoint.pt").read_bytes()
    with monkeypatch.context() as patched:
        kill_at_step(patched, 0)
        with pytest.raises(SystemExit, match=r"best\.pt, the network of the best epoch, \d, is lost .*--select last"):
            again(folder, capsys)
    assert (folder / "checkpoint.pt").read_bytes() == before
    assert "continues after" in again(folder, capsys, "--select", "last")  # the remedy
    assert load_network(folder).which == "last"
    assert state_of(folder)["model.1.weight"].equal(state_of(runs / "finished")["model.1.weight"])


def test_a_finished_run_shows_its_results_and_names_the_lost_network(runs, copied, capsys):
    folder = copied("finished", "best.pt", "deleted")
    said = again(folder, capsys)
    assert "best.pt, the network of the best epoch" in said and "20 test images, 3 epochs" in said
    said = again(folder, capsys, "--select", "last")  # measures the last one
    assert "20 test images, 3 epochs of PGD-1 adversarial training\n" in said


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("file", ["config.json", "metrics.jsonl", "checkpoint.pt", "environment.json", "results.json"])
def test_evaluation_finds_the_same_network_and_history(runs, copied, file, way):
    one, other = load_network(runs / "finished", "cpu"), load_network(copied("finished", file, way), "cpu")
    assert (one.which, one.epoch, one.history, one.record) == (other.which, other.epoch, other.history, other.record)
    weights = other.model.state_dict()
    assert all(weight.equal(weights[name]) for name, weight in one.model.state_dict().items())


@pytest.mark.parametrize("way", WAYS)
def test_evaluate_takes_no_other_network_for_the_best(copied, way):
    folder = copied("finished", "best.pt", way)
    with pytest.raises(SystemExit, match=r"error: .*best\.pt"):
        main(["evaluate", str(folder)])
    main(["evaluate", str(folder), "--which", "last"])


@pytest.mark.parametrize("way", WAYS)
def test_what_stood_in_front_is_not_forgotten(tmp_path, way):
    folder, front = tmp_path / "run", torch.nn.Hardtanh(0.0, 0.5)
    train_configured(TINY, folder, front=front, quiet=True)
    lose(folder, "caller.json", way)
    with pytest.raises(SystemExit, match="behind a front of its own"):
        main(["evaluate", str(folder)])
    with pytest.raises(ValueError, match="holds a run behind another front"):
        train_configured(TINY, folder)
    assert train_configured(TINY, folder, front=front, quiet=True).finished


@pytest.mark.parametrize(
    ("file", "way", "said"),
    [
        ("config.json", "deleted", "has no config.json"),
        ("config.json", "cut short", "config.json: "),
        ("metrics.jsonl", "deleted", "metrics.jsonl is missing"),
        ("metrics.jsonl", "cut short", "metrics.jsonl: "),
        ("results.json", "cut short", "results.json: "),
        ("environment.json", "cut short", "environment.json: "),
        (EXAMPLES, "cut short", "adversarial_examples.png is no whole picture"),
    ],
)
def test_report_names_what_it_cannot_show(copied, tmp_path, file, way, said):
    with pytest.raises(SystemExit, match=said):
        main(["report", str(copied("finished", file, way)), "--out", str(tmp_path / "page.html")])


@pytest.mark.parametrize("file", ["results.json", "environment.json", EXAMPLES, "checkpoint.pt", "best.pt"])
def test_report_shows_the_rest(copied, tmp_path, file):
    main(["report", str(copied("finished", file, "deleted")), "--out", str(tmp_path / "page.html")])
    assert ("trained, not evaluated" in (tmp_path / "page.html").read_text()) == (file == "results.json")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("file", ["caller.json", "config.json", "metrics.jsonl", "environment.json"])
def test_runs_of_objects_stay_what_they_were(tmp_path, file, way):
    found = short(tmp_path)
    before = (tmp_path / file).read_text()
    lose(tmp_path, file, way)
    with pytest.raises(ValueError, match="holds a run on other images"):
        short(tmp_path, given=(torch.rand(112, 12), torch.arange(112) % 4))
    lose(tmp_path, file, way)
    with pytest.raises(ValueError, match=r"another configuration \(lr: 0\.1 -> 0\.3\)"):
        short(tmp_path, lr=0.3)  # nothing is made again for it
    assert short(tmp_path).history == found.history
    assert (tmp_path / file).read_text() == before


def test_nothing_is_made_again_for_a_run_of_other_settings(copied, capsys):
    folder = copied("within", "config.json", "deleted")
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    with pytest.raises(SystemExit, match=r"holds a run of another configuration \(width: 8 -> 9\)"):
        again(folder, capsys, "--width", "9")
    assert "made again" not in capsys.readouterr().out
    assert before == {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_figures_may_be_kept_elsewhere(copied, capsys, tmp_path):
    folder = copied("finished", FIGURE, "kept")
    (folder / "figures").rename(tmp_path / "drawn")
    (folder / "figures").symlink_to(tmp_path / "drawn")
    assert "holds this run, finished" in again(folder, capsys)


def test_a_finished_run_is_shown_without_reading_its_checkpoint(runs, capsys, monkeypatch):
    read = []

    def load(path: Path) -> dict[str, object]:
        read.append(path.name)
        return load_checkpoint(path)

    for module in (mending, checkpoint):
        monkeypatch.setattr(module, "load_checkpoint", load)
    assert "holds this run, finished" in again(runs / "finished", capsys)
    assert set(read) == {"best.pt"}
