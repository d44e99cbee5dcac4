"""Hostile input through the real command line: nothing of it is run, obeyed or written elsewhere (docs/security.md)."""

from __future__ import annotations

import csv
import io
import os
import pickle
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from rich.console import Console

from bench.execution.supervisor import RunState
from bench.execution.task import Notice
from bench.plan.plan import make_plan
from bench.plan.suite import load_suite
from bench.progress import LivePanel, PlainLines
from bench.results.mlflow_suite import experiment_tags, report_note
from bench.results.store import Store
from bench.text import markdown_text, one_line, printable
from reports.formats import csv_bytes

ROOTS = ("<img src=x onerror=document.title=1>'\"&", "=1+1|$x^{ [red]a[\u2215red] [\u2215] `b`")
CLASSES = (
    "<script>document.title=1<\u2215script>",
    '"><svg onload=document.title=1>',
    "\x1b]0;owned\x07\x1b[2J",
    "$x^{",
    "=1+1|a",
    "[bold red]b[\u2215red][\u2215]",
    "\u202eevil\r\nline",
    "{{ 7*7 }}",
    os.fsdecode(b"no \xff\xfe text"),
)
SUITE = """\
name: hostile
question: "</title><script>document.title='owned'</script> $x^{ | `a` **b** [l](javascript:alert(1)) {{ 7*7 }}"
source: "\\"><svg onload=alert(1)> =1+1"
seeds: 2
base:
  model: {name: mlp, hidden: [8]}
  training: {epochs: 1, batch_size: 32, lr: 0.05}
  label_noise: {kind: uniform, rate: 0.4}
methods:
  - erm
  - {name: mixup, alpha: 1}
matrix:
  dataset:
    - {name: image_folder, root: ROOT0, image_size: 8}
    - {name: image_folder, root: ROOT1, image_size: 8}
"""

TINY = """\
name: tiny
question: Does it matter?
seeds: 1
base:
  dataset: digits
  model: {name: mlp, hidden: [16]}
  training: {epochs: 4, batch_size: 64, lr: 0.1}
methods:
  - erm
  - {name: mixup, alpha: 1}
"""


def in_terminal(command: list[str], folder: Path, env: dict[str, str]) -> tuple[int, str]:
    """Run with a terminal for output. Returns the exit status and all that the terminal got."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, cwd=folder, env=env, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    got = b""
    try:
        while True:
            if select.select([ours], [], [], 0.2)[0]:
                got += os.read(ours, 65536)
            elif process.poll() is not None:
                break
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    return process.wait(timeout=60), got.decode(errors="surrogateescape")


@pytest.fixture(scope="module")
def hostile(bench_environment, tmp_path_factory) -> tuple[str, Path]:
    """What a terminal got of `bench run` on hostile folders, and the folder that holds its report."""
    folder = tmp_path_factory.mktemp("hostile")
    rng = np.random.default_rng(0)
    text = SUITE
    for index, root in enumerate(ROOTS):
        text = text.replace(f"ROOT{index}", "'" + root.replace("'", "''") + "'")
        for name in CLASSES:
            for split, count in (("train", 5 + index), ("test", 2)):
                place = folder / root / split / name
                place.mkdir(parents=True)
                for number in range(count):
                    pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(place / f"{number}\x1b[31m.png")
    (folder / "hostile.yaml").write_text(text, encoding="utf-8")
    env = bench_environment | {"TERM": "xterm", "COLUMNS": "300"}
    status, printed = in_terminal([sys.executable, "-m", "bench", "run", "hostile.yaml", "--no-mlflow"], folder, env)
    assert status == 0, printed
    assert "report  " in printed
    return printed, folder


def test_the_terminal_gets_only_our_own_commands(hostile):
    """Colours and cursor movements of the live panel; no title, no clearing, nothing that a folder's name says."""
    printed, _ = hostile
    ours = re.compile(r"\x1b\[(\?25[lh]|\d*[ABK]|2K|[\d;]*m)")
    left = ours.sub("", printed)
    assert "\x1b" not in left, ascii(left[left.index("\x1b") - 40 :][:80])
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\u202a-\u202e]", left)
    assert "[red]a[\u2215red]" in left, "brackets are text"


def test_messages_about_folders_are_made_printable(hostile, make_bench):
    """An error that names a folder whose name is full of escapes."""
    _, folder = hostile
    bad = folder / "bad" / "train"
    (bad / "\x1b]0;owned\x07").mkdir(parents=True)
    (bad / "b").mkdir()
    (folder / "bad" / "test").mkdir()
    result = make_bench(folder)("plan", "hostile.yaml", "--set", "matrix.dataset.0.root=bad")
    assert result.returncode == 2
    assert "\\x1b]0;owned\\x07" in result.stderr
    assert "\x1b" not in result.stderr


class Page(HTMLParser):
    """What a browser would make of the page: tags, attributes and the text between."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.texts: dict[str, str] = {}
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.inside = tag

    def handle_data(self, data):
        self.texts[self.inside] = self.texts.get(self.inside, "") + data


OUR_TAGS = """
html head meta title style body header main section h1 h2 h3 p ul li a div table caption thead tbody tr th td
figure figcaption details summary br nav script svg defs g path use text rect image clippath pattern
"""
OUR_ATTRIBUTES = """
lang charset name content class id href width height tabindex role scope colspan open aria-label aria-labelledby
http-equiv download data-name data-csv data-label viewbox d x y transform opacity xlink:href clip-path clippathunits
fill fill-opacity stroke stroke-width stroke-linejoin stroke-linecap stroke-dasharray stroke-dashoffset stroke-opacity
font-family font-size text-anchor patternunits preserveaspectratio
"""
OUR_SCRIPTS_TAGS = "button dialog input label span"


def test_the_page_has_no_tags_and_attributes_but_ours(hostile):
    _, folder = hostile
    text = (folder / "reports/out/hostile/report.html").read_text()
    page = Page(text)
    assert page.tags <= set(OUR_TAGS.split())
    assert {name for name, _ in page.attributes} <= set(OUR_ATTRIBUTES.split())
    links = [value for name, value in page.attributes if name in ("href", "xlink:href")]
    assert all(value.startswith(("#", "data:image/png;base64,", "data:application/pdf;base64,")) for value in links)
    ours = (Path(__file__).parents[1] / "reports/templates/script.js").read_text()
    assert page.texts["script"].strip() == ours.strip(), "the only script"
    assert "<script>document.title='owned'</script>" in page.texts["title"], "shown as text"
    assert "{{ 7*7 }}" in page.texts["h1"]
    everything = "".join(page.texts.values())
    assert ROOTS[0] in everything
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", text)


@pytest.mark.browser
def test_nothing_of_the_page_runs(hostile):
    _, folder = hostile
    page = folder / "reports/out/hostile/report.html"
    command = ["chromium", "--headless", "--no-sandbox", "--dump-dom", "--virtual-time-budget=2000", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout
    assert "<title>hostile: &lt;/title&gt;&lt;script&gt;" in dom
    parsed = Page(dom)
    assert parsed.tags <= {*OUR_TAGS.split(), *OUR_SCRIPTS_TAGS.split()}
    assert not [name for name, _ in parsed.attributes if name.startswith("on")]
    assert dom.count("<script") == page.read_text().count("<script")
    assert dom.count("<svg") == page.read_text().count("<svg")


def test_tables_hold_names_as_text(hostile):
    """A Markdown row keeps its number of cells; a spreadsheet finds no formula in a CSV file."""
    _, folder = hostile
    out = folder / "reports/out/hostile"
    rows = [line for line in (out / "comparison.md").read_text().splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    assert all(char not in "".join(rows).replace("\\`", "") for char in "`")
    found = 0
    for path in out.rglob("*.csv"):
        with path.open(newline="") as file:
            for cell in (cell for row in csv.reader(file) for cell in row):
                found += cell.startswith("'=1+1")
                assert not cell.startswith(("=", "+", "@")), (path, cell)
                assert not cell.startswith("-") or float(cell) <= 0
    assert found, "the folder's name stands in the tables"


def test_nothing_was_written_elsewhere(hostile):
    _, folder = hostile
    assert {path.name for path in folder.iterdir()} <= {*ROOTS, "hostile.yaml", "results", "reports", "bad"}


def test_the_live_panel_takes_names_as_they_are():
    """Brackets ended a run with rich's MarkupError."""
    stream = io.StringIO()
    state = RunState(planned=2, preparing="[/red] \x1b[2J", latest="[/] \x1b]0;x\x07", errors={"[/bold]\x9b1m": [0.5]})
    with LivePanel(Console(file=stream, force_terminal=True, width=100), arms=("[/bold]\x9b1m",)) as panel:
        panel.update(state)
        state.preparing = Notice("the cached [/x]\x1b[5m is damaged")
        panel.update(state)
    shown = stream.getvalue()
    for text in ("[/red] \\x1b[2J", "[/] \\x1b]0;x\\x07", "[/bold]\\x9b1m", "the cached [/x]\\x1b[5m is damaged"):
        assert text in shown
    assert not re.search("\x1b\\[2J|\x1b]|\x1b\\[5m|\x9b", shown)


def test_plain_lines_too():
    stream = io.StringIO()
    lines = PlainLines(Console(file=stream, width=100), arms=("erm",))
    lines.update(RunState(planned=2, preparing=Notice("[/red] \x1b[2J"), latest="[/] \x1b]0;x\x07\u202e"))
    assert (
        stream.getvalue()
        == "[/] \\x1b]0;x\\x07\\u202e\n[/red] \\x1b[2J\n0/2 done, 0 running\n"[: len(stream.getvalue())]
    )
    assert "[/red] \\x1b[2J\n" in stream.getvalue()


def test_text_is_spelt_out_where_it_acts():
    assert printable("a\x1b\x9b\u202e\ud800\u2028ä\n\t\U0001f600") == "a\\x1b\\x9b\\u202e\\ud800\\u2028ä\n\t\U0001f600"
    assert one_line("a\nb\tc") == "a\\nb\\tc"
    assert markdown_text("a_b _c_ *d* [e](f) <g> | `h` [0.1, 0.2] &amp; p < 1\n# i") == (
        "a_b \\_c\\_ \\*d\\* [e\\](f) \\<g> \\| \\`h\\` [0.1, 0.2] \\&amp; p < 1 # i"
    )


def test_mlflows_notes_hold_text(tmp_path):
    """They are Markdown."""
    path = tmp_path / "suite.yaml"
    path.write_text(TINY.replace("Does it matter?", '"[x](javascript:1) <img src=x> `a` **b**"'))
    plan = make_plan(load_suite(path))
    for note in (experiment_tags(plan)["mlflow.note.content"], report_note(plan, ["[x](y): <b>better</b>"])):
        assert note.startswith("**[x\\](javascript:1) \\<img src=x> \\`a\\` \\*\\*b\\*\\***\n")
    assert note.endswith("\n- [x\\](y): \\<b>better\\</b>")


def test_numbers_in_csv_stay_numbers():
    import pandas as pd

    frame = pd.DataFrame({"name": ["=1", "-x", "@y", "+z", "ok", None], "value": [-1.5, 2, 3, 4, 5, 6]})
    assert csv_bytes(frame).decode().split() == [
        "name,value",
        "'=1,-1.5",
        "'-x,2.0",
        "'@y,3.0",
        "'+z,4.0",
        "ok,5.0",
        ",6.0",
    ]


class Poison:
    """Leaves a marker behind when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def poisoned(marker: Path, kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "pickle":
        return pickle.dumps(Poison(marker))
    if kind == "torch":
        torch.save({"model": Poison(marker)}, buffer)
    elif kind == "npz":
        names = ("test_logits", "test_labels", "val_logits", "val_labels")
        np.savez(buffer, **{name: np.array([Poison(marker)], dtype=object) for name in names})
    else:
        np.save(buffer, np.array([Poison(marker)], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def test_the_poison_works(tmp_path):
    """What the tests below rely on."""
    pickle.loads(poisoned(tmp_path / "marker", "pickle"))
    assert (tmp_path / "marker").exists()
    with zipfile.ZipFile(io.BytesIO(poisoned(tmp_path / "marker", "npz"))) as archive:
        assert b"touch" in archive.read("test_logits.npy")


@pytest.fixture(scope="module")
def trained(make_bench, tmp_path_factory) -> Path:
    """The folder of a suite of two trials after its run."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.yaml").write_text(TINY)
    result = make_bench(folder)("run", "tiny.yaml", "--no-mlflow", "--no-report")
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def test_a_poisoned_checkpoint_is_not_opened(trained, make_bench, tmp_path):
    """Two kinds, both taken for no checkpoint: the trials train from the beginning, to the same numbers."""
    shutil.copytree(trained, tmp_path / "copy")
    store = Store(tmp_path / "copy" / "results")
    expected = {}
    for trial_id, kind in zip(store.trial_ids()[:2], ("torch", "pickle"), strict=True):
        folder = store.trial(trial_id)
        expected[trial_id] = folder.final()["metrics"]
        (folder.path / "final.json").unlink()
        folder.checkpoint.write_bytes(poisoned(tmp_path / "marker", kind))
    result = make_bench(tmp_path / "copy")("run", "tiny.yaml", "--no-mlflow", "--no-report")
    assert result.returncode == 0, result.stdout + result.stderr
    assert {trial_id: store.trial(trial_id).final()["metrics"] for trial_id in expected} == expected
    assert not (tmp_path / "marker").exists()


def test_poisoned_results_are_not_opened(trained, make_bench, tmp_path):
    """Kept logits, kept weights and the data cache; an evaluation of the network says that it cannot have it."""
    shutil.copytree(trained, tmp_path / "copy")
    store, marker = Store(tmp_path / "copy" / "results"), tmp_path / "marker"
    for trial_id in store.trial_ids():
        store.trial(trial_id).logits.write_bytes(poisoned(marker, "npz"))
        store.trial(trial_id).weights.write_bytes(poisoned(marker, "torch"))
    for path in (tmp_path / "copy/results/cache/data").rglob("*.npy"):
        path.write_bytes(poisoned(marker, "npy"))
    with (tmp_path / "copy" / "tiny.yaml").open("a") as file:
        file.write("evaluate: [clean, calibration, in_between]\n")
    result = make_bench(tmp_path / "copy")("run", "tiny.yaml", "--no-mlflow", "--no-report")
    assert not marker.exists()
    assert "Traceback" not in result.stdout + result.stderr
    assert "is damaged" in result.stdout
    assert result.returncode == 0 or "failed    " in result.stdout


GUARD = """
import os, socket
real_connect, real_lookup = socket.socket.connect, socket.getaddrinfo
def note(what):
    with open(os.environ["NETWORK_LOG"], "a") as file:
        file.write(f"{what}\\n")
def connect(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6):
        note(address)
    return real_connect(self, address)
def getaddrinfo(host, *rest, **options):
    note(host)
    return real_lookup(host, *rest, **options)
socket.socket.connect, socket.getaddrinfo = connect, getaddrinfo
"""


def without_network() -> list[str]:
    """A command that runs another one in a network of its own, with nothing in it; empty where that is not allowed."""
    command = ["unshare", "-rn"]
    try:
        allowed = subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        allowed = False
    return command if allowed else []


def test_a_run_asks_the_network_for_nothing(bench_environment, tmp_path):
    """A timm network, MLflow and the report included; the guard is in every process that Python starts."""
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    log = tmp_path / "network.log"
    repository = str(Path(__file__).parents[1])
    env = bench_environment | {"PYTHONPATH": f"{tmp_path / 'guard'}:{repository}", "NETWORK_LOG": str(log)}
    probe = "import socket; socket.getaddrinfo('localhost', 80)"
    subprocess.run([sys.executable, "-c", probe], env=env, check=True)
    assert "localhost" in log.read_text(), "the guard is not in place"
    log.unlink()
    (tmp_path / "suite.yaml").write_text(
        "name: alone\nquestion: Does it need anybody?\nseeds: 1\nbase:\n  dataset: digits\n"
        "  model: {name: timm/test_resnet}\n  training: {epochs: 1, batch_size: 256, lr: 0.1}\n"
        "methods: [erm, {name: mixup, alpha: 1}]\n"
    )
    command = [*without_network(), sys.executable, "-m", "bench", "run", "suite.yaml"]
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2/2 done" in result.stdout
    assert "MLflow  http" in result.stdout
    assert not log.exists(), log.read_text()


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return int(port)


def test_the_web_pages_listen_on_this_machine_alone(bench_environment, tmp_path, free_port):
    """Whatever the processes of `bench ui` listen on, nobody else can reach it."""
    (tmp_path / "results").mkdir()
    command = [sys.executable, "-m", "bench", "ui", "--port", str(free_port)]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=bench_environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 100
        listening: set[tuple[str, int]] = set()
        while not any(port == free_port for _, port in listening) and time.monotonic() < deadline:
            time.sleep(0.5)
            tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            sockets = [each for one in tree for each in one.net_connections("inet")]
            listening = {(each.laddr.ip, each.laddr.port) for each in sockets if each.status == psutil.CONN_LISTEN}
        assert (free_port in {port for _, port in listening}) is True
        assert {address for address, _ in listening} == {"127.0.0.1"}
    finally:
        for each in psutil.Process(process.pid).children(recursive=True):
            each.kill()
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("place", ["a file", "below a file", "/proc/nowhere", "x" * 300])
@pytest.mark.parametrize("command", ["run", "status"])
def test_a_results_folder_that_cannot_be_is_said(bench, tiny_suite, tmp_path, place, command):
    (tmp_path / "a file").write_text("")
    results = {"below a file": "a file/results"}.get(place, place)
    result = bench(command, tiny_suite, env={"BENCH_RESULTS": results})
    if (command, place) != ("status", "/proc/nowhere"):  # reading what is not there is no error
        assert result.returncode == 2, result.stdout
        assert result.stderr.startswith(("error: results folder", "error: nothing can be written to"))
    assert "Traceback" not in result.stderr


def test_a_suites_name_of_any_length_is_an_error_of_one_line(bench):
    result = bench("plan", "x" * 300)
    assert result.returncode == 2
    assert "File name too long" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "argument", ["checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "pretrained"]
)
def test_a_suite_cannot_have_weights_read(argument):
    from bench.models import ModelError, build

    with pytest.raises(ModelError, match=argument):
        build("timm/test_resnet", input_shape=(3, 32, 32), num_classes=10, **{argument: "evil.pt"})
