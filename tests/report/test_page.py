"""The report page: well-formed, complete in itself, true to the runs, and fit for hostile names."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest
import torch

from fastat import data
from fastat.cli import main
from fastat.report import page
from fastat.report.page import write_page
from fastat.report.results import write_results
from fastat.training import TrainConfig, as_fields, train_configured, with_fields

TINY = with_fields(
    TrainConfig(), model="mlp", width=16, epochs=2, attack_steps=2, batch_size=32, train_size=96, val_size=16
)

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Tags that close, rows that fit their heads, sources, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.text, self.sources, self.tables, self.ids = [], [], [], [], []
        self.feed(text)
        assert self.open == []
        assert len(self.ids) == len(set(self.ids))
        assert {source[1:] for source in self.sources if source[0] == "#"} <= set(self.ids)
        assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(self.ids)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag not in VOID:
            self.open.append(tag)
        self.sources += [found[name] for name in ("src", "href", "xlink:href") if name in found]
        assert tag != "script"
        self.ids += [found["id"]] if "id" in found else []
        if tag == "svg":
            assert found["role"] == "img" and found["aria-label"]
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append(0)
        if tag in ("td", "th"):
            self.tables[-1][-1] += 1
        if tag == "img":
            assert found["alt"]

    def handle_startendtag(self, tag, attributes):
        found = dict(attributes)
        self.ids += [found["id"]] if "id" in found else []
        self.sources += [found[name] for name in ("src", "href", "xlink:href") if name in found]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.text.append(text)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run, one of another norm and protocol, and one that is not finished."""
    root = tmp_path_factory.mktemp("runs")
    configs = {
        "plain": TINY,
        "l2": with_fields(TINY, protocol="hr", objective="holistic", norm="l2"),
    }
    for name, config in configs.items():
        network = train_configured(config, root / name)
        write_results(network, data.load("digits").test.subset(30, 0), root / name)
    shutil.copytree(root / "plain", root / "open")
    (root / "open" / "results.json").unlink()
    (root / "open" / "environment.json").unlink()
    shutil.rmtree(root / "open" / "figures")
    return root


def test_page_is_whole(runs, tmp_path):
    names = ["plain", "l2", "open"]
    text = write_page([runs / name for name in names], tmp_path / "page.html").read_text()
    page = Page(text)
    assert all(source.startswith(("#", "data:image/png;base64,")) for source in page.sources)
    for table in page.tables:
        assert len(set(table)) == 1
    shown = " ".join(page.text)
    for name in names:
        assert name in page.text
    results = json.loads((runs / "l2" / "results.json").read_text())
    assert f"{results['accuracy']['pgd-50x10']['accuracy']:.1%}" in shown
    for word in (
        "HR (alpha 0.05, r 0.1) on PGD-2",
        "trained, not evaluated",
        "Nothing.",
        "torch",
        "norm",
        "finished",
    ):
        assert word in shown


def test_values_that_look_the_same_are_told_apart(runs, tmp_path):
    shutil.copytree(runs / "plain", tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    config |= {"lr": config["lr"] + 1e-9, "momentum": 0.5}
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    shown = Page(write_page([runs / "plain", tmp_path / "other"], tmp_path / "page.html").read_text()).text
    assert {repr(config["lr"]), "0.5", "0.9"} <= set(shown)
    assert "The runs differ in:" in shown


def test_same_runs_same_page(runs, tmp_path):
    first = write_page([runs / "plain", runs / "l2"], tmp_path / "a.html").read_bytes()
    assert write_page([runs / "plain", runs / "l2"], tmp_path / "b.html").read_bytes() == first
    assert write_page([str(runs / "l2")], tmp_path / "new" / "c.html").exists()


def test_hostile_names(runs, tmp_path):
    folder = tmp_path / "<script>alert(1)$x$"
    shutil.copytree(runs / "plain", folder)
    results = json.loads((folder / "results.json").read_text())
    results["classes"][3] = "<b>$three</b>"
    results["dataset"] = "a & b"
    (folder / "results.json").write_text(json.dumps(results))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows[0]["findings"] = [{"monitor": "robust overfitting", "step": 3, "text": "1 < 2 & so on"}]
    rows[-1]["stopped"] = "no <better>"
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = Page(write_page([folder, runs / "l2"], tmp_path / "page.html").read_text())
    shown = " ".join(page.text)
    assert "Step 3, robust overfitting: 1 < 2 & so on" in shown
    assert "a & b, MLP" in shown
    assert "stopped early: no <better>" in shown
    assert "alert(1)" in shown


PAYLOAD = "<script>alert('$x$')</script>&\""


def planted(value):
    """The same JSON value with the payload before every text."""
    if isinstance(value, dict):
        return {name: planted(item) for name, item in value.items()}
    if isinstance(value, list):
        return [planted(item) for item in value]
    return f"{PAYLOAD}{value}" if isinstance(value, str) else value


def numbers(value, place=()):
    """Where the numbers of a JSON value are."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers(item, (*place, key))
    elif isinstance(value, int | float):
        yield place


def put(value, place, new):
    """A copy of the JSON value with another one at the place."""
    copied = json.loads(json.dumps(value))
    within = copied
    for key in place[:-1]:
        within = within[key]
    within[place[-1]] = new
    return copied


def test_no_text_of_a_file_becomes_markup(runs, tmp_path):
    """A payload in every text that a page shows, names of attacks included."""
    folder = tmp_path / "run"
    shutil.copytree(runs / "plain", folder)
    results = json.loads((folder / "results.json").read_text())
    results |= planted({name: results[name] for name in ("dataset", "curve", "classes")})
    robust = f"{PAYLOAD}robust"
    for counts in (results["accuracy"], results["by_class"]["accuracy"]):
        counts[robust] = counts.pop("pgd-50x10")
    (folder / "results.json").write_text(json.dumps(results))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows[0]["findings"] = [{"monitor": f"{PAYLOAD}monitor", "step": 3, "text": f"{PAYLOAD}text"}]
    rows[-1]["stopped"] = f"{PAYLOAD}stopped"
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    environment = planted(json.loads((folder / "environment.json").read_text()))
    (folder / "environment.json").write_text(json.dumps(environment | {f"{PAYLOAD}name": "value"}))
    config = json.loads((folder / "config.json").read_text())
    config |= {"data": f"folder:{PAYLOAD}data", "model": f"timm:{PAYLOAD}model"}
    (folder / "config.json").write_text(json.dumps(config))

    text = write_page([folder], tmp_path / "page.html").read_text()
    assert "<script" not in text.lower()
    shown = " ".join(Page(text).text)
    words = ("monitor", "text", "stopped", "name", "data", "model", "robust")
    more = {*environment.values(), results["dataset"], *(f"{PAYLOAD}{word}" for word in words)}
    assert [wanted.lower() for wanted in more if wanted.lower() not in shown.lower()] == []


@pytest.mark.parametrize("name", ["results.json", "metrics.jsonl", "config.json"])
def test_a_number_that_is_a_text_is_refused_or_not_shown(runs, tmp_path, monkeypatch, name):
    folder = tmp_path / "run"
    shutil.copytree(runs / "plain", folder)
    whole = json.loads((folder / name).read_text() if name != "metrics.jsonl" else metrics_line(folder))
    unread, refused = whole, []
    with monkeypatch.context() as patched:
        patched.setattr(page, "_page", lambda runs: "")
        for place in numbers(whole):
            (folder / name).write_text(json.dumps(put(whole, place, PAYLOAD)) + "\n")
            try:
                write_page([folder], tmp_path / "page.html")
            except ValueError as error:
                refused.append((place[0], str(error)))
            else:
                unread = put(unread, place, PAYLOAD)
    assert all(re.search(f"cannot be read: .*{field}", text) for field, text in refused)
    (folder / name).write_text(json.dumps(unread) + "\n")
    assert "<script" not in write_page([folder], tmp_path / "page.html").read_text().lower()
    for field in {"results.json": ("test_images", "epoch", "eps"), "metrics.jsonl": ("epoch", "lr")}.get(name, whole):
        assert unread[field] == whole[field]  # was refused


def metrics_line(folder) -> str:
    return (folder / "metrics.jsonl").read_text().splitlines()[0]


def test_folders_of_one_name_are_told_apart(runs, tmp_path):
    for seed in ("s0", "s1"):
        shutil.copytree(runs / "plain", tmp_path / seed / "run")
    page = Page(write_page([tmp_path / "s0" / "run", tmp_path / "s1" / "run"], tmp_path / "page.html").read_text())
    assert {"s0/run", "s1/run"} <= set(page.text)


def test_a_run_before_its_first_epoch(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(as_fields(TINY)))
    page = Page(write_page([tmp_path / "run"], tmp_path / "page.html").read_text())
    assert "unfinished, epoch 0 of 2" in page.text


def test_many_classes_show_the_weakest(runs, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(runs / "plain", folder)
    results = json.loads((folder / "results.json").read_text())
    values = [i / 200 for i in range(200)]
    results["classes"] = [f"class {i}" for i in range(200)]
    results["classes"][7] = "a class with a name\nmuch longer than the bars"
    results["by_class"] = {"images": [1] * 200, "accuracy": {name: values for name in results["accuracy"]}}
    (folder / "results.json").write_text(json.dumps(results))
    page = Page(write_page([folder], tmp_path / "page.html").read_text())
    assert {"class 0", "class 19", "a class with a na…"} <= set(page.text)
    assert "class 20" not in page.text


def test_errors(runs, tmp_path):
    with pytest.raises(ValueError, match="at least one run"):
        write_page([], tmp_path / "page.html")
    with pytest.raises(FileNotFoundError, match=r"is not the folder of a run: it has no config\.json"):
        write_page([tmp_path], tmp_path / "page.html")
    shutil.copytree(runs / "plain", tmp_path / "broken")
    (tmp_path / "broken" / "results.json").write_text("{")
    with pytest.raises(ValueError, match=r"broken cannot be read: results\.json: "):
        write_page([tmp_path / "broken"], tmp_path / "page.html")
    results = json.loads((runs / "plain" / "results.json").read_text())
    for number, (file, content, message) in enumerate(
        (
            ("results.json", "3", "holds no JSON object"),
            (
                "results.json",
                '{"dataset": "digits"}',
                "lacks norm, eps, .*; another version of fastat may have written it",
            ),
            ("metrics.jsonl", '{"epoch": 1}\n', "line 1: lacks lr, train, val, "),
            ("metrics.jsonl", "{\n", "line 1: Expecting property name"),
            ("config.json", "[1]", "holds no JSON object"),
            ("environment.json", "", "Expecting value"),
            ("environment.json", "[" * 100_000, "nested too deeply"),
            ("environment.json", json.dumps({"a\nb\x1b" + "c" * 999: 1}), r"a\\nb\\x1bc+ must be a text, got 1$"),
            (
                "results.json",
                json.dumps(results | {"norm": PAYLOAD}),
                "norm must be one of l1, l2, linf, got .<script>",
            ),
            (
                "results.json",
                json.dumps(results | {"which": PAYLOAD}),
                "which must be one of best, last, got .<script>",
            ),
            ("results.json", json.dumps(results | {"eps": 10**400}), "eps must be a number, got 1000"),
        )
    ):
        other = tmp_path / f"{file} {number}"
        shutil.copytree(runs / "plain", other)
        (other / file).write_text(content)
        with pytest.raises(ValueError, match=f"cannot be read: {re.escape(file)}: {message}"):
            write_page([other], tmp_path / "page.html")
    with pytest.raises(SystemExit, match=r"error: .*config\.json"):
        main(["report", str(tmp_path)])
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    "file", ["config.json", "metrics.jsonl", "results.json", "environment.json", "figures/adversarial_examples.png"]
)
def test_files_elsewhere_are_not_shown(runs, tmp_path, file):
    folder = tmp_path / "run"
    shutil.copytree(runs / "plain", folder)
    shutil.move(folder / file, tmp_path / "elsewhere")
    (folder / file).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=f"cannot be read: '{file}' is a link to a file outside"):
        write_page([folder], tmp_path / "page.html")


def test_results_by_class_are_counts(runs):
    results = json.loads((runs / "plain" / "results.json").read_text(), parse_constant=pytest.fail)
    test = data.load("digits").test.subset(30, 0)
    network = train_configured(TINY, runs / "plain")
    with torch.no_grad():
        right = network.model(test.pixels()).argmax(1) == test.labels
    images = results["by_class"]["images"]
    assert images == torch.bincount(test.labels, minlength=10).tolist()
    for label in range(10):
        own = right[test.labels == label]
        found = results["by_class"]["accuracy"]["clean"][label]
        assert found == (pytest.approx(float(own.float().mean())) if len(own) else None)
    assert results["accuracy"]["clean"]["accuracy"] == pytest.approx(float(right.float().mean()))
    assert len(results["curve"]["eps"]) == len(results["curve"]["accuracy"]) == 9
    assert (results["which"], results["epoch"]) == (network.which, network.epoch)
