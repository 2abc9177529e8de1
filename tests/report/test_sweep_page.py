"""The report of a sweep: whole, safe, the same for the same input, and sensible whatever the sweep is."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from html.parser import HTMLParser

import pytest
from rich.console import Console

from pesloss.report.__main__ import main
from pesloss.report.sweep import compare, read_sweep
from pesloss.report.sweep.commands import job_command
from pesloss.report.sweep.files import write
from pesloss.report.sweep.page import page
from pesloss.report.sweep.svg import Axis
from pesloss.report.sweep.terminal import show
from tests.report import made

EVIL = "<script>alert('x')</script>\x1b[31m|`[a](b)"
VOID = {"meta", "img", "br", "wbr"}


class Elements(HTMLParser):
    """What a page consists of; it fails if an element is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words = ""
        self.feed(text)
        assert not self.open

    def handle_startendtag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def files(folder, **options) -> dict[str, str]:
    return {path.suffix: path.read_text() for path in write(compare(read_sweep(folder), **options), folder)}


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


SWEEPS = {
    "everything": {},
    "plots": {"plots": True},
    "one job": {"keys": {"loss.weights.forces": (1,)}, "ends": {}},
    "all failed": {"keys": {"a": (1, 2)}, "ends": {0: "failed", 1: "failed"}},
    "none begun": {"keys": {"a": (1, 2)}, "ends": {0: "not begun", 1: "not begun"}},
    "all dropped": {"keys": {"a": (1, 2)}, "ends": {0: "dropped", 1: "dropped"}},
    "seeds alone": {"keys": {"seed": (1, 2)}, "ends": {}},
    "no number": {"keys": {"loss": ("huber", "mae"), "b": ([1, "x"], {"y": None}, None, True)}, "ends": {}},
    "zero and null": {"keys": {"a": (0, 1e-3, 1, 1e3), "b": (None, 0.1, 0.2)}, "ends": {}},
    "forces alone": {"names": ("forces/mae_component",)},
    "no score": {"names": ("energy/mae",)},
    "at random": {"jobs": [{"a": 1.37**i, "b": (7 * i) % 23} for i in range(23)], "ends": {}},
    "other keys": {"jobs": [{"a": 1}, {"a": 2, "b": 3}, {"b": 3}], "ends": {}},
    "many lines": {"keys": {"a": (1, 10, 100), "b": (1, 2, 3), "c": (1, 2, 3)}, "ends": {}},
    "one epoch": {"epochs": 1, "keys": {"a": (1, 2)}, "ends": {}},
    "huge and tiny": {"keys": {"a": (1e-300, 1.0, 1e300, -1), "seed": (1, 2)}, "ends": {}},
}


@pytest.mark.parametrize("options", SWEEPS.values(), ids=SWEEPS)
def test_any_sweep_makes_a_whole_page(tmp_path, options):
    folder = made.sweep(tmp_path / "s", **options)
    texts = files(folder)
    elements = Elements(texts[".html"])
    jobs = read_sweep(folder).jobs
    assert f"{len(jobs)} jobs" in elements.words
    assert not re.search(r'[ "LM>](nan|inf)', texts[".html"])
    assert [row["job"] for row in table(texts[".csv"])] == [job.name for job in jobs]
    assert texts[".md"].count("python -m pesloss.train ") == len(jobs) + 1
    show(compare(read_sweep(folder)), Console(file=io.StringIO()))


def test_the_page_asks_for_nothing(tmp_path):
    text = files(made.sweep(tmp_path / "s", plots=True))[".html"]
    found = dict.fromkeys(Elements(text).attributes)
    for name, value in found:
        if name == "src":
            assert value.startswith("data:image/png;base64,")
        if name in ("href", "xlink:href"):
            assert value.startswith("#")
    assert not {"link", "iframe", "object", "embed", "base", "form"} & set(Elements(text).names)
    assert not re.search(r"https?:|//\w|@import|url\(|fetch\(|XMLHttp", re.sub(r'base64,[^"]*', "", text))


def test_links_lead_to_sections(tmp_path):
    attributes = Elements(files(made.sweep(tmp_path / "s", plots=True))[".html"]).attributes
    places = [value for name, value in attributes if name == "id"]
    assert len(places) == len(set(places)) == 8
    assert [value.removeprefix("#") for name, value in attributes if name == "href"] == places


def test_what_comes_from_files_is_text(tmp_path):
    folder = made.sweep(
        tmp_path / EVIL.replace("/", ""),
        {EVIL: (EVIL, "other"), f"{EVIL}.number": (1, 2)},
        ends={0: "failed"},
        command=["python", "-m", EVIL],
    )
    path = folder / "job-0000" / "job.json"
    record = {**json.loads(path.read_text()), "error": {"type": EVIL, "message": EVIL}}
    path.write_text(json.dumps(record))
    plain = Elements(
        files(made.sweep(tmp_path / "s", {"a": ("x", "y"), "b": (1, 2)}, ends={0: "failed"}))[".html"]
    )
    text = files(folder)[".html"]
    assert Elements(text).names.count("script") == plain.names.count("script") == 1
    assert "alert('x')" not in text
    assert not any(name.startswith("on") for name, _ in Elements(text).attributes)


def test_lone_surrogates_do_not_break_the_files(tmp_path):
    folder = made.sweep(tmp_path / "s")
    path = folder / "job-0000" / "job.json"
    record = json.loads(path.read_text())
    record["swept"]["loss.weights.forces"] = "\ud800"
    path.write_text(json.dumps(record))
    assert "\\ud800" in files(folder)[".html"]


def test_the_same_sweep_gives_the_same_files(tmp_path):
    folder = made.sweep(tmp_path / "s", plots=True)
    assert files(folder) == files(folder)


def test_the_csv_has_all_errors_with_all_digits(tmp_path):
    folder = made.sweep(tmp_path / "s")
    rows = table(files(folder)[".csv"])
    for job, row in zip(read_sweep(folder).jobs, rows, strict=True):
        assert row["state"] == job.state
        assert {name: float(row[name]) for name in job.errors} == dict(job.errors)
        assert [json.loads(row[key]) for key in made.KEYS] == [job.swept[key] for key in made.KEYS]


def test_the_best_is_marked_and_ranked_first(tmp_path):
    comparison = compare(read_sweep(made.sweep(tmp_path / "s")))
    means = [comparison.mean(s, comparison.score) for s in comparison.settings]
    values = [mean.value for mean in means if mean is not None]
    assert values == sorted(values) and comparison.best is comparison.settings[0]
    assert comparison.settings[-1].is_dropped and comparison.best in comparison.front


def test_the_command_of_a_job_is_its_overrides(tmp_path):
    sweep = read_sweep(made.sweep(tmp_path / "s", {"loss": ("it's <b>", "b")}, ends={}))
    for job in sweep.jobs:
        words = shlex.split(job_command(sweep, job))
        assert words == ["python", "-m", "pesloss.train", *job.overrides]


@pytest.mark.parametrize("command", [["study.py", "-m"], ["pesloss-train", "-m"], []], ids=str)
def test_a_job_is_trained_by_the_program_of_its_sweep(tmp_path, command):
    sweep = read_sweep(made.sweep(tmp_path / "s", {"a": (1,)}, ends={}, command=command))
    program = {"study.py": "python study.py", "pesloss-train": "pesloss-train"}
    expected = program.get(command[0] if command else "", "python -m pesloss.train")
    assert job_command(sweep, sweep.jobs[0]) == f"{expected} data=acac a=1"


def test_parity_plots_are_limited_and_said_to_be(tmp_path):
    comparison = compare(read_sweep(made.sweep(tmp_path / "s", plots=True)))
    num = len(comparison.front)
    assert num > 2
    images = [Elements(page(comparison, limit)).names.count("img") for limit in (0, 2, 100)]
    assert images == [0, 6, 3 * num]
    assert f"{num - 2} more members of the front left out" in page(comparison, 2)


def test_what_is_no_picture_is_not_shown(tmp_path):
    folder = made.sweep(tmp_path / "s", {"a": (1, 2)}, ends={})
    (folder / "job-0000" / "parity_forces.png").write_text("<svg onload=alert(1)>")
    assert "img" not in Elements(files(folder)[".html"]).names


def test_errors_may_be_chosen(tmp_path):
    sweep = read_sweep(made.sweep(tmp_path / "s"))
    chosen = compare(sweep, "test", ["energy/rmse [meV/atom]", "forces/rmse_component"])
    assert [error.column for error in chosen.columns] == [
        "test/energy/rmse [meV/atom]",
        "test/forces/rmse_component [meV/Å]",
    ]
    with pytest.raises(
        ValueError, match=r"Unknown error 'forces/mae_compnent'; did you mean 'forces/mae_component'"
    ):
        compare(sweep, "val", ["forces/mae_compnent"])
    with pytest.raises(ValueError, match="Unknown split 'valid'; did you mean 'val'"):
        compare(sweep, "valid")


def test_the_program_writes_and_tells(tmp_path, monkeypatch, capsys):
    folder = made.sweep(tmp_path / "s")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["report", "s", "split=test", "output=out", "parity=1"])
    main()
    told = capsys.readouterr().out
    assert "31 finished" in told and "NonFiniteError" in told and "test structures" in told
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "report.csv",
        "report.html",
        "report.md",
    ]
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("errors=forces/mae", "errors must be null or a list"),
        ("parity=-1", "parity must be a whole number"),
        ("split=train", "Unknown split 'train'"),
        ("sweep=nowhere", "There is no sweep in nowhere"),
    ],
)
def test_a_mistake_is_answered_in_a_sentence(tmp_path, monkeypatch, capsys, argument, sentence):
    made.sweep(tmp_path / "s", {"a": (1,)}, ends={})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["report", "s", argument])
    with pytest.raises(SystemExit):
        main()
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    "values",
    [[1, 10, 100], [0, 1e-3, 1e3], [5.0], [0.0], [], [-3, 8], [1e-300, 1e300], [1.0, 1.0 + 1e-9]],
    ids=str,
)
def test_axes_keep_the_order_of_numbers(values):
    axis = Axis.of(values, 0.0, 100.0)
    places = [axis(value) for value in sorted(values)]
    assert places == sorted(places) and all(0 <= place <= 100 for place in places)
    ticks = axis.ticks()
    assert ticks == sorted(ticks) and all(-1e-6 <= axis(tick) <= 100 + 1e-6 for tick in ticks)
