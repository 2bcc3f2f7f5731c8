"""The command line, in this process."""

import json
import re
import sys

import pytest

import fastat
from fastat.cli import main
from fastat.cli.reading import parse, parse_number
from fastat.cli.train import default_folder
from fastat.kernels import describe_environment
from fastat.training import Terminated, TrainConfig, as_fields, default_config, with_fields
from fastat.training import loop as training

TINY = [
    "train", "--data", "digits", "--model", "mlp", "--width", "16", "--epochs", "1", "--attack-steps", "1",
    "--train-size", "128", "--eval-size", "20", "--val-size", "10",
]  # fmt: skip


@pytest.mark.parametrize("name", ["digits", "mnist", "cifar10", "folder:/pictures"])
def test_defaults_follow_the_dataset(name):
    command = parse(["train", "--data", name])
    assert command.settings == default_config(name)
    assert parse(["train", f"--data={name}", "--epochs", "3"]).settings == default_config(name, epochs=3)


def test_defaults_follow_the_protocol():
    assert parse(["train", "--protocol", "hr", "--attack", "n-fgsm", "--r", "0.2"]).settings == default_config(
        "digits", "hr", attack="n-fgsm", r=0.2
    )
    flags = ["--data=mnist", "--protocol=bat", "--beta", "0", "--label-noise", "1/10", "--width", "16"]
    expected = default_config("mnist", "bat", beta=0.0, label_noise=0.1, width=16)
    assert parse(["train", *flags]).settings == expected


def test_flags_override():
    command = parse(["train", "--eps", "8/255", "--step-size", "2/255", "--nesterov", "--lr", "1e-3", "--norm", "l2"])
    assert command.settings == with_fields(
        TrainConfig(), eps=8 / 255, step_size=2 / 255, nesterov=True, lr=1e-3, norm="l2"
    )


@pytest.mark.parametrize(("text", "value"), [("8/255", 8 / 255), ("0.03", 0.03), (" 1 / 4 ", 0.25), ("1e-2", 0.01)])
def test_parse_number(text, value):
    assert parse_number(text) == value


@pytest.mark.parametrize("text", ["8/0", "a/b", "", "1/2/3"])
def test_parse_number_rejects(text):
    with pytest.raises(ValueError, match=r"division by zero|could not convert"):
        parse_number(text)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--data", "cifar11"],
            "error: --data: data must be one of digits, mnist, fashion-mnist, cifar10, cifar100, svhn, tiny-imagenet, "
            "imagenet, folder:PATH, tensors:FILE.npz, package.module:function, got 'cifar11'; did you mean 'cifar10'?",
        ),
        (["--eps", "-1"], "error: --eps: eps must be a finite number >= 0, got -1.0"),
        (["--epochs", "0"], "error: --epochs: epochs must be at least 1, got 0"),
        (
            ["--protocol", "bat", "--objective", "holistic"],
            "error: --objective: objective must be benign under protocol bat (default_config sets it), got 'holistic'",
        ),
    ],
)
def test_wrong_values_are_one_line(flags, message):
    with pytest.raises(SystemExit) as stop:
        main(["train", *flags])
    assert str(stop.value) == message and stop.value.code == 2


def refused(capsys, *given):
    """What tyro says of a wrong command line, without its box; the exit status is that of a wrong usage."""
    with pytest.raises(SystemExit) as stop:
        main(given)
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    return " ".join(re.sub(r"[^\x00-\x7f]|-{3,}|[|+]", " ", said.err).split())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["train", "--epohcs", "3"], ["--epohcs", "--epochs INT"]),
        (["train", "--eps", "8/0"], ["--eps", "division by zero in '8/0'"]),
        (["train", "--epochs", "x"], ["--epochs", "invalid literal for int() with base 10: 'x'"]),
        (["train", "--norm", "l3"], ["--norm", "'l3'", "'linf', 'l2', 'l1'"]),
        (["train", "--optimizer", "sdg"], ["--optimizer", "'sdg'", "'sgd', 'adam', 'adamw'"]),
        (["train", "hrr"], ["--protocol", "'hrr'", "standard, pgd-at,", "did you mean 'hr'?"]),
        (["train", "--protocol", "None"], ["--protocol", "'None'"]),
        (["train", "--model", "wide_resnet_28"], ["--model", "did you mean 'wide_resnet_28_10'?"]),
        (["train", "--data", "cifar-10"], ["--data", "did you mean 'cifar10'?"]),
        (["train", "--data"], ["--data"]),
        (["evaluate", "--wich", "last", "runs/x"], ["--wich", "--which"]),
        (["report", "a", "--run", "b"], ["--run"]),
        (["info", "--data"], ["--data"]),
        (["evaluate", "one", "other"], ["other"]),
        (["trian"], ["trian", "train, evaluate, report, theory, info"]),
        (["--eps", "1"], ["--eps"]),
    ],
)
def test_a_wrong_command_line_is_explained(capsys, given, words):
    said = refused(capsys, *given)
    assert [word for word in words if word not in said] == []


@pytest.mark.parametrize(
    ("given", "said"),
    [("evaluate", "error: evaluate needs a run: "), ("report", "error: a report needs at least one run")],
)
def test_a_missing_run_is_one_line(given, said):
    with pytest.raises(SystemExit) as stop:
        main([given])
    assert str(stop.value).startswith(said) and "\n" not in str(stop.value) and stop.value.code == 2


def test_the_version(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"fastat {fastat.__version__}\n"


def test_completions_of_a_shell_are_those_of_all_commands(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--tyro-print-completion", "bash"])
    assert stop.value.code in (0, None) and "--epochs" in capsys.readouterr().out
    assert "--tyro-print-completion" in refused(capsys, "train", "--tyro-print-completion", "bash")


def test_no_command_shows_the_help(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 0
    alone = capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--help"])
    assert capsys.readouterr().out == alone
    assert all(name in alone for name in ("train", "evaluate", "report", "theory", "info"))


def test_protocol_by_position():
    assert parse(["train", "hr", "--r", "0.2"]).settings == parse(["train", "--protocol", "hr", "--r", "0.2"]).settings


@pytest.mark.parametrize(
    ("given", "runs"),
    [
        (["report", "a", "b", "--out", "x.html"], ["a", "b"]),
        (["report", "--out", "x.html", "a", "b"], ["a", "b"]),
        (["theory", "page", "--out", "x.html", "a"], ["a"]),
        (["report", "--out", "x.html"], []),
    ],
)
def test_folders_by_position(given, runs):
    found = parse(given)
    assert list(map(str, found.runs if given[0] == "report" else found.folders)) == runs
    assert str(found.out) == "x.html"


def test_a_run_by_position():
    for given in (["runs/x", "--which", "last"], ["--which", "last", "runs/x"]):
        found = parse(["evaluate", *given])
        assert (str(found.run), found.which) == ("runs/x", "last")


def test_a_configuration_given_back(tmp_path):
    config = default_config("mnist", "trades", milestones=(0.25, 0.5), seed=7, eps=0.2)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(as_fields(config)))
    assert parse(["train", "--config", str(file)]).settings == config
    assert parse(["train", "--config", str(file), "--seed", "8"]).settings == with_fields(config, seed=8)
    file.write_text('{"epsilon": 1}')
    with pytest.raises(SystemExit, match=r"error: --config: .*not fields of a configuration: epsilon"):
        main(["train", "--config", str(file)])
    for wrong in (tmp_path / "other.json", tmp_path):
        with pytest.raises(SystemExit, match=r"error: --config: .*(No such file|Is a directory)"):
            main(["train", "--config", str(wrong)])


def test_another_protocol_for_a_configuration(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(as_fields(default_config("digits", "hr", epochs=7))))
    found = parse(["train", "n-fgsm", "--config", str(file)]).settings
    assert found == default_config("digits", "n-fgsm", epochs=7)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--device", "tpu"], "error: --device: device must be cpu, cuda or cuda:NUMBER, got 'tpu'"),
        (["--model", "timm:nope"], "error: --model: model 'timm:nope' is not known"),
        (["--checkpoint-every", "nan"], "error: --checkpoint-every: checkpoint_every must be at least 0, got nan"),
        (["--step-size", "inf"], "error: --step-size: step_size must be finite and above 0, got inf"),
    ],
)
def test_what_cannot_be_is_one_line_that_names_the_flag(flags, message, tmp_path):
    with pytest.raises(SystemExit) as stop:
        main(["train", *flags, "--out", str(tmp_path / "run")])
    assert str(stop.value).startswith(message) and stop.value.code == 2
    assert "\n" not in str(stop.value)


def test_help_shows_the_defaults_of_the_dataset(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--data", "mnist", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert re.search(r"--eps FLOAT.*?default: 0\.3\)", text)
    with pytest.raises(SystemExit):
        main(["train", "--protocol", "bat", "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", "").split())
    assert re.search(r"--objective \{.*?default: benign\)", text)
    assert "method options" in text and "settings.method" not in text


def test_missing_data(monkeypatch, tmp_path):
    monkeypatch.delenv("FASTAT_DATA", raising=False)
    with pytest.raises(SystemExit, match="error: mnist needs a folder"):
        main(["train", "--data", "mnist", "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_train_evaluate_and_again(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    main([*TINY, "--out", str(folder)])
    text = capsys.readouterr().out
    assert "20 test images, 1 epochs" in text
    assert re.search(r"PGD-50x10 +[\d.]+%", text)
    for name in ("training_curves", "adversarial_examples", "accuracy_vs_eps"):
        path = folder / "figures" / f"{name}.png"
        assert path.exists()
        assert str(path) in text
    results = json.loads((folder / "results.json").read_text())
    assert results["test_images"] == 20

    with monkeypatch.context() as patched:
        patched.setattr(training, "train_step", None)
        main([*TINY, "--out", str(folder)])
    assert "finished" in capsys.readouterr().out

    main(["evaluate", str(folder), "--eval-size", "12"])
    assert "12 test images" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"error: .* holds a run of another configuration \(seed: 0 -> 4\)"):
        main([*TINY, "--seed", "4", "--out", str(folder)])


def test_quiet_shows_the_results_alone(tmp_path, capsys):
    main([*TINY, "--quiet", "--out", str(tmp_path / "run")])
    shown = capsys.readouterr()
    assert shown.out.lstrip().startswith("digits") and "PGD-50x10" in shown.out and shown.err == ""
    main(["evaluate", str(tmp_path / "run"), "--quiet", "--eval-size", "12"])
    assert capsys.readouterr().out.lstrip().startswith("digits")


def test_no_graph_records_nothing(tmp_path, recorder):
    folder = tmp_path / "run"
    main([*TINY, "--no-graph", "--out", str(folder)])
    main(["evaluate", str(folder), "--no-graph", "--eval-size", "12"])
    assert recorder.made == 0
    main(["evaluate", str(folder), "--eval-size", "12"])
    evaluated = recorder.made
    assert evaluated > 0
    main([*TINY, "--out", str(tmp_path / "other")])
    assert recorder.made > evaluated


def test_default_folder_stands_for_the_configuration():
    one, other = default_folder(TrainConfig()), default_folder(with_fields(TrainConfig(), seed=1))
    assert one == default_folder(TrainConfig())
    assert one != other
    assert one.parent.name == "runs"
    assert re.fullmatch(r"digits-pgd-at-small_cnn-[0-9a-f]{8}", one.name)
    assert "/" not in default_folder(with_fields(TrainConfig(), data="folder:/a b/c")).name


def test_evaluate_without_a_run(tmp_path):
    with pytest.raises(SystemExit, match="error: no checkpoint at"):
        main(["evaluate", str(tmp_path)])


@pytest.mark.parametrize(("raised", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_what_ends_a_run(tmp_path, monkeypatch, capsys, raised, code):
    def interrupt(*arguments, **options):
        raise raised

    monkeypatch.setattr("fastat.cli.train.train_configured", interrupt)
    with pytest.raises(SystemExit) as stop:
        main([*TINY, "--out", str(tmp_path)])
    assert stop.value.code == code
    assert "same command continues" in capsys.readouterr().err


def test_info_shows_build_and_devices(capsys):
    main(["info"])
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines()] == list(describe_environment())


def test_without_tyro(monkeypatch):
    for name in ("fastat.cli.reading", "fastat.cli.commands"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "tyro", None)
    with pytest.raises(SystemExit, match=r"pip install 'fastat\[cli\]'"):
        main(["train"])


def test_info_needs_no_tyro(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tyro", None)
    main(["info"])
    assert capsys.readouterr().out.startswith("fastat ")


def test_evaluate_before_the_first_epoch_is_over(tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(training, "train_step", interrupt)
        with pytest.raises(SystemExit):
            main([*TINY, "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit, match=r"error: .* has no finished epoch yet"):
        main(["evaluate", str(tmp_path / "run")])


def test_report_and_evaluation_of_a_checkpoint_file(tmp_path, capsys):
    folder = tmp_path / "run"
    main([*TINY, "--out", str(folder), "--tensorboard"])
    capsys.readouterr()
    assert list((folder / "tensorboard").iterdir())
    main(["evaluate", str(folder / "best.pt"), "--eval-size", "10", "--out", str(tmp_path / "judged")])
    assert "10 test images" in capsys.readouterr().out
    assert json.loads((tmp_path / "judged" / "results.json").read_text())["which"] == "best"
    main(["evaluate", str(folder), "--which", "last", "--eval-size", "10"])
    assert json.loads((folder / "evaluation" / "results.json").read_text())["which"] == "last"
    page = tmp_path / "report.html"
    main(["report", str(folder), "--out", str(page)])
    assert str(page) in capsys.readouterr().out
    assert "</html>" in page.read_text()
    with pytest.raises(SystemExit, match=r"error: .*nowhere"):
        main(["report", str(tmp_path / "nowhere")])


def test_what_a_dataset_needs_is_one_line(monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match=r"error: CIFAR-100: unpack .* --download .* fetches it"):
        main(["train", "--data", "cifar100", "--data-root", str(tmp_path), "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit, match=r"error: --val-size: val_size must be .* 1438 training images, got 5000"):
        main(["train", "--val-size", "5000", "--out", str(tmp_path / "run")])
