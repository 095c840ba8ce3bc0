"""Files of a training for people (docs/looking.md): events, pictures, scores, and the page of a run."""

from __future__ import annotations

import base64
import html
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_tools import PROJECT, end_after, refused_here, run_here
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data.labels import NAMES
from engine.validation import Validation
from stages.analysis import LABELS
from tests.cli.killed_runs import differences, left_by, prepare, training_words
from utils.published import PublishedRun
from utils.report.page import page as page_of
from utils.report.run import read_run

ITERATIONS = 10
PICTURED = [3, 7, 10]  # every 4th as lines are counted, and the validation at the end


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A small world with runs of stage 1 in logs/: pictured (and analysed), plain (neither), and stopped."""
    folder = tmp_path_factory.mktemp("looking")
    prepare(folder)
    with pytest.MonkeyPatch.context() as patch:
        train(folder, patch, "pictured", "--picture_interval", "4", "--analysis")
        with patch.context() as released:  # a made-up one of this length stands beside the plain run
            made_up = PublishedRun("stage1", [], best=(4, 99.0), last=(ITERATIONS, 98.0), losses={})
            released.setattr("engine.about.published_beside", lambda o, val: made_up)
            train(folder, patch, "plain", "--picture_interval", "0")
        with patch.context() as stop, pytest.raises(SystemExit):
            end_after(8, stop)
            train(folder, patch, "stopped", "--picture_interval", "1")
    return folder


def train(folder: Path, patch: pytest.MonkeyPatch, name: str, *more: str) -> None:
    run_here(" ".join(["python", *training_words("stage1", name, ITERATIONS), *more]), folder, patch)


def events(folder: Path) -> EventAccumulator:
    """All that TensorBoard would show of a run."""
    everything = {"scalars": 0, "images": 0, "histograms": 0}
    return EventAccumulator(str(folder / "tensorboard"), size_guidance=everything).Reload()


# --- TensorBoard --------------------------------------------------------------------------------------------


def test_events_hold_what_the_docs_name(world):
    found = events(world / "logs" / "pictured")
    tags = found.Tags()
    histograms = {"confidence/soft_label", "confidence/rectified_label", "confidence/prediction"}
    assert set(tags["histograms"]) == histograms
    single = {"loss/total", "loss/SL", "lr/backbone", "time/step", "val/miou", "queue/fill", "queue/ignored"}
    single |= {"sinkhorn/distance_to_prior", "prototypes/nearest_pair", "confidence/soft_label/mean"}
    each = {"val/iou", "queue/labels", "classes/soft_label", "classes/rectified_label", "classes/prediction"}
    each |= {"sinkhorn/prior", "sinkhorn/all_rows", "sinkhorn/sampled_pixels"}
    each |= {"prototypes/norm", "prototypes/cosine_to_ema", "prototypes/nearest_cosine"}
    each |= {"prototypes/cosine_to_start", "analysis/assigned", "analysis/truth"}
    single |= {f"analysis/{x}" for x in ("assigned_to_prior", "assigned_to_truth", "prior_to_truth")}
    right = [f"{kind}accuracy/{label}" for kind in ("", "mean_") for label in LABELS]
    single |= {"prototypes/mean_cosine_to_start", *(f"analysis/{x}" for x in right)}
    assert single | {f"{name}/{k}" for name in each for k in NAMES} <= set(tags["scalars"])

    steps = {name.removeprefix("pictures/"): [e.step for e in found.Images(name)] for name in tags["images"]}
    assert steps == {"source": PICTURED, "target": PICTURED, "validation": [10]}
    assert [e.step for e in found.Scalars("queue/fill")] == PICTURED
    picture = Image.open(io.BytesIO(found.Images("pictures/target")[-1].encoded_image_string))
    assert picture.width > 9 * 256 and picture.height > 2 * 128
    line = json.loads((world / "logs" / "pictured" / "log.jsonl").read_text().splitlines()[-2])
    assert line["iteration"] == 10
    assert line["queue/fill"] == pytest.approx(found.Scalars("queue/fill")[-1].value)


def test_pictures_change_no_result(world):
    """Checkpoints, states and losses are bit for bit those of a run without pictures and analysis."""
    pictured, plain = (left_by(world, name, ITERATIONS) for name in ("pictured", "plain"))
    assert plain["files"].keys() == pictured["files"].keys() and len(plain["files"]) == 3
    for name in pictured["files"]:
        if name.endswith(".pt"):  # how many lines were written is another number
            assert pictured["files"][name]["log"].pop("lines") > plain["files"][name]["log"].pop("lines")
    assert differences(pictured["files"], plain["files"]) == []
    lines = [line for line in pictured["log"] if "queue/fill" not in line]
    assert differences(lines, plain["log"]) == []
    assert not (world / "logs" / "plain" / "pictures").exists()
    assert events(world / "logs" / "plain").Tags()["images"] == []


def test_a_run_ends_beside_the_published_one(world):
    logs = [(world / "logs" / name / "run.log").read_text().splitlines() for name in ("plain", "pictured")]
    said = [line.partition("published ")[2] for line in logs[0] if "published" in line]
    own = json.loads((world / "logs" / "plain" / "scores_current.json").read_text())["miou"]
    words = f"this run {100 * own:.4g}: far below; see docs/healthy.md, 'mIoU on val'"
    assert said == [f"stage1, best (Iter 4): mIoU 99, {words}", f"stage1, last (Iter 10): mIoU 98, {words}"]
    assert "published" not in " ".join(logs[1])


def test_a_continued_run_doubles_no_point(world, monkeypatch):
    """Iteration 8 was drawn and its state is lost: it is drawn again, and shown once."""
    run = world / "logs" / "stopped"
    drawn = [e.step for e in events(run).Images("pictures/target")]
    assert drawn == list(range(1, 9))
    for state in (run / "state").glob("0000008.*"):
        state.unlink()
    train(world, monkeypatch, "stopped", "--picture_interval", "1", "--continue")
    found = events(run)
    for steps in (found.Images("pictures/target"), found.Scalars("queue/fill")):
        assert [e.step for e in steps] == list(range(1, 11))
    assert [e.step for e in found.Scalars("val/miou")] == [10]
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "queue/fill" in line] == list(range(1, 11))
    starts = json.loads((run / "about.json").read_text())["starts"]
    assert [start["after"] for start in starts] == [0, 7]


# --- the folder ---------------------------------------------------------------------------------------------


def test_scores_hold_the_whole_confusion(world):
    best, scores = (
        json.loads((world / "logs" / "pictured" / f"scores_{which}.json").read_text())
        for which in ("best", "current")
    )
    counts = np.array(scores["confusion"])
    right = counts.diagonal()
    iou = right / np.maximum(counts.sum(axis=0) + counts.sum(axis=1) - right, 1)
    assert scores["iteration"] == 10 and counts.shape == (19, 19) and scores["images"] == 3
    np.testing.assert_allclose(np.nan_to_num(np.array(scores["iou"], dtype=float)), iou)
    assert best["miou"] >= scores["miou"]


def test_a_run_that_begins_anew_keeps_nothing_of_the_old(world, tmp_path, monkeypatch):
    for name in ("dataset", "Pseudo"):
        (tmp_path / name).symlink_to(world / name)
    shutil.copytree(world / "logs", tmp_path / "logs")
    words = [*training_words("stage1", "pictured", 1), "--overwrite", "--picture_interval", "0"]
    with monkeypatch.context() as patch:
        patch.setattr(Validation, "run", lambda self, _: None)
        run_here(" ".join(["python", *words]), tmp_path, patch)
    run = tmp_path / "logs" / "pictured"
    assert not list(run.glob("scores_*.json")) and not list(run.glob("pictures/*.png"))
    page = page_of(read_run(run))
    assert "No validation has been written yet." in page and "1 of 1" in page
    assert "Against the truth" not in page


# --- the page -----------------------------------------------------------------------------------------------


def test_the_page_says_what_the_run_says(world, tmp_path):
    run = world / "logs" / "pictured"
    out = tmp_path / "elsewhere" / "page.html"
    words = [sys.executable, "-m", "utils.report", str(run), "--out", str(out)]
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{out}\n", "")
    page = out.read_text()
    assert not re.search(r"https?:|//[a-z]", re.sub(r"base64,[^\"]*", "", page))  # nothing from elsewhere
    text = html.unescape(re.sub(r"<[^>]+>", " ", page))
    titles = ("Scores", "Curves", "Pictures", "Confusion", "Shares of the classes", "Inside the method")
    for title in (*titles, "Against the truth"):
        assert f"<h2>{title}</h2>" in page
    scores = json.loads((run / "scores_current.json").read_text())
    assert f" {100 * scores['miou']:.1f} " in text and "10 of 10" in text
    counts = np.array(scores["confusion"])
    k = int(counts.sum(axis=1).argmax())
    j = int(counts[k].argmax())
    share = 100 * counts[k, j] / counts[k].sum()
    assert f"{NAMES[k]} as {NAMES[j]}: {share:.2f} % ({counts[k, j]:,} pixels)" in html.unescape(page)
    assert re.search(r"queue_length\s+256\s+65536", text)  # an option that is not at its default
    assert page.count("data:image/") == 2 * 9 + 2 * 3 + 3 * 3
    uris = re.findall(r'src="data:image/png;base64,([^"]*)"', page)
    files = [io.BytesIO(base64.b64decode(uri)) for uri in uris]
    tiles = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    shown = [tile for sheet, _ in read_run(run).sheets.values() for row in sheet.rows for tile in row]
    assert sum(any(np.array_equal(tile, x) for x in shown) for tile in tiles) == len(tiles) >= 2 * 4
    charts = ("loss total", "loss contrast", "learning rate", "mIoU on val", "fill of the queue")
    for chart in (
        *charts,
        "prototypes against their start",
        "right labels",
        "class shares of sampled pixels",
    ):
        assert f"<figcaption>{chart}" in page
    assert "torchvision" in text and "Each start of the run" in text


@pytest.mark.parametrize("kept", [("log.jsonl",), ("about.json",), ("options.yaml",)])
def test_a_page_of_whatever_is_there(world, tmp_path, kept):
    """A run of an older version, one that has just begun, and the last line just being written."""
    run = tmp_path / "part"
    run.mkdir()
    for name in kept:
        shutil.copy(world / "logs" / "pictured" / name, run)
    if "log.jsonl" in kept:
        with open(run / "log.jsonl", "a") as file:
            file.write('{"iteration": 99, "loss/to')
        assert read_run(run).iteration == 10
    page = page_of(read_run(run))
    assert "<h1>part</h1>" in page and "nan" not in page.split("<footer>")[0].split("</style>")[1]


def test_names_are_shown_and_never_run(world, tmp_path):
    run = tmp_path / "<script>alert(1)<"
    run.mkdir()
    hostile = "<img src=x onerror=alert(1)>\"'&"
    about = json.loads((world / "logs" / "pictured" / "about.json").read_text())
    about["classes"][0], about["stage"], about["quirks"] = hostile, hostile, [hostile]
    (run / "about.json").write_text(json.dumps(about))
    line = {"iteration": 1, f"loss/{hostile}": 1.0, "val/miou": 0.5, f"val/iou/{hostile}": 0.5}
    (run / "log.jsonl").write_text(json.dumps(line) + "\n")
    (run / "options.yaml").write_text(json.dumps({hostile: hostile, "name": hostile}))
    shutil.copytree(world / "logs" / "pictured" / "pictures", run / "pictures")
    drawn = page_of(read_run(run))
    assert "<img src=x" not in drawn and "<script>alert" not in drawn and hostile in html.unescape(drawn)
    assert drawn.count("<script>") == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("about.json", "{}"),
        ("about.json", '{"classes": ["a"], "colours": [[0, 0, 256]], "prior": null, "starts": []}'),
        ("scores_best.json", '{"iteration": 1, "images": 1, "confusion": [[1, 2], [3]]}'),
        ("scores_current.json", '{"iteration": 1, "images": 1, "confusion": [[0.5]]}'),
        ("options.yaml", "[1, 2]"),
        ("log.jsonl", '{"iteration": "one"}\n'),
        ("pictures/target.png", "no picture"),
    ],
)
def test_a_damaged_file_is_named(world, tmp_path, name, content):
    run = tmp_path / "run"
    (run / "pictures").mkdir(parents=True)
    (run / "log.jsonl").write_text('{"iteration": 1}\n')
    (run / name).write_text(content)
    with pytest.raises(ValueError, match=re.escape(name)) as error:
        read_run(run)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("folder", "message"), [("none", "no such folder"), ("empty", "holds no run")])
def test_a_folder_without_a_run_is_refused_in_one_line(tmp_path, monkeypatch, folder, message):
    (tmp_path / "empty").mkdir()
    line = refused_here(f"python utils/report/__main__.py {tmp_path / folder}", tmp_path, monkeypatch)
    assert line.startswith(f"error: {tmp_path / folder}: {message}")


# --- in a browser -------------------------------------------------------------------------------------------

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# The page in a frame of the width that is asked for: windows have a least width. It tells its frame what it
# measures, which cannot look into it; files are strangers to one another.
MEASURE = """<script>
document.querySelector("details").open = true;
const wide = [...document.querySelectorAll("body *")].filter((x) =>
  x.getBoundingClientRect().right > innerWidth + 1 && !x.closest(".scroll, nav"));
document.querySelector("svg[data-series]").dispatchEvent(new PointerEvent("pointermove", {clientX: 150}));
const broken = [...document.images].filter((x) => !x.naturalWidth).length;
parent.postMessage({width: innerWidth, content: document.documentElement.scrollWidth, broken,
  wide: wide.map((x) => x.outerHTML.slice(0, 80)), tip: document.querySelector(".tip")?.textContent}, "*");
</script>"""
FRAME = """<!doctype html><body><pre></pre>
<iframe src="page.html" style="width:{width}px;height:900px;border:0"></iframe>
<script>addEventListener("message", (e) => document.querySelector("pre").textContent = JSON.stringify(e.data))
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome is installed")
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_in_a_browser(world, tmp_path, width):
    """Nothing is wider than the page but tables in their boxes, the script runs, the console is silent."""
    page = page_of(read_run(world / "logs" / "pictured"))
    (tmp_path / "page.html").write_text(page.replace("</body>", f"{MEASURE}</body>"))
    (tmp_path / "frame.html").write_text(FRAME.replace("{width}", str(width)))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000", "--dump-dom"]
    options += ["--enable-logging=stderr", "--v=0", f"--user-data-dir={tmp_path / 'profile'}"]
    options += ["--virtual-time-budget=5000"]
    words = [BROWSER, *options, (tmp_path / "frame.html").as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    found = json.loads(html.unescape(re.search("<pre>(.*?)</pre>", done.stdout, re.DOTALL)[1]))
    assert found["width"] == width and found["content"] <= width
    assert found["wide"] == [] and found["broken"] == 0
    assert found["tip"].startswith("iteration ")
