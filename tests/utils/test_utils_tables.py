"""Tables read back: by the csv module, and Markdown and LaTeX by hand."""

from __future__ import annotations

import csv
import math
import re

import pytest

from data.labels import class_names
from utils.options import parse
from utils.published import published_rows
from utils.quirks import Quirks, recorded_quirks
from utils.report.tables import plain_table, save_table

_NAMES = """road sidewalk building wall fence pole light sign vegetation terrain sky
person rider car truck bus train motorcycle bicycle"""
NAMES_19 = _NAMES.split()
NAMES_16 = [name for name in NAMES_19 if name not in ("terrain", "truck", "train")]


def scores(n_class: int = 19) -> dict:
    """Class i has an IoU of i + 0.25 percent; the last is absent."""
    names = class_names(n_class)
    found = {"classes": names, "iou": [(i + 0.25) / 100 for i in range(n_class - 1)] + [math.nan]}
    found |= {"miou": 0.0875, "overall_accuracy": 0.5, "mean_accuracy": 0.25, "frequency_weighted_iou": 0.125}
    found |= {"checkpoint": "logs/a_b|50%/best.pkl", "quirks": "none", "torch": "2.9.1", "images": 7}
    return found | ({"miou_13": 0.0911} if n_class == 16 else {})


EXPECTED_19 = [i + 0.25 for i in range(18)]


def written(tmp_path, ending: str, **words) -> str:
    path = tmp_path / "tables" / f"row{ending}"
    save_table(scores(words.pop("n_class", 19)), path, **words)
    return path.read_text()


def check_percent(cells: list[str], values: list[float], absent: str) -> None:
    """One decimal each, at most half a step away; the last class is absent."""
    assert len(cells) == len(values) + 1 and cells[-1] == absent
    for cell, value in zip(cells, values, strict=False):
        assert re.fullmatch(r"\d+\.\d", cell)
        assert float(cell) == pytest.approx(value, abs=0.0501)


def test_csv(tmp_path):
    head, row = csv.reader(written(tmp_path, ".csv").splitlines())
    assert head == ["checkpoint", *NAMES_19, "mIoU (19)", "classes", "images", "quirks", "torch"]
    assert row[0] == "logs/a_b|50%/best.pkl"
    check_percent(row[1:20], EXPECTED_19, "nan")
    assert row[20:] == ["8.8", "19", "7", "none", "2.9.1"]
    (row,) = csv.DictReader(written(tmp_path, ".csv", n_class=16).splitlines())
    assert list(row)[1:17] == NAMES_16
    assert (row["mIoU (16)"], row["mIoU (13)"], row["classes"]) == ("8.8", "9.1", "16")


def test_markdown(tmp_path):
    text = written(tmp_path, ".md")
    head, rule, row, empty, about = text.splitlines()
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in (head, rule, row)]
    assert [cell.strip() for cell in cells[0]] == ["checkpoint", *NAMES_19, "mIoU (19)"]
    assert cells[1] == [" --- ", *[" ---: "] * 20]
    row_cells = [cell.strip() for cell in cells[2]]
    assert row_cells[0] == r"logs/a_b\|50%/best.pkl"
    check_percent(row_cells[1:20], EXPECTED_19, "-")
    assert row_cells[20] == "8.8" and empty == ""
    assert about == (
        "IoU in percent over 19 classes; checkpoint logs/a_b|50%/best.pkl; 7 images; quirks none; torch 2.9.1"
    )


def test_latex(tmp_path):
    about, head, row = written(tmp_path, ".tex", n_class=16).splitlines()
    assert about.startswith("% IoU in percent over 16 classes; checkpoint logs/a_b|50%/best.pkl; 7 images")
    assert head == "% checkpoint & " + " & ".join([*NAMES_16, "mIoU (16)", "mIoU (13)"]) + r" \\"
    assert row.endswith(r" \\")
    cells = row.removesuffix(r" \\").split(" & ")
    assert cells[0] == r"logs/a\_b\textbar{}50\%/best.pkl"
    check_percent(cells[1:17], EXPECTED_19[:15], "-")
    assert cells[17:] == ["8.8", "9.1"]


@pytest.mark.parametrize(("ending", "lines"), [(".csv", 2), (".md", 5), (".tex", 3)])
def test_a_name_with_a_line_break_stays_in_its_row(tmp_path, ending, lines):
    save_table(scores() | {"checkpoint": "a\n\\input{b}&c"}, tmp_path / f"row{ending}")
    text = (tmp_path / f"row{ending}").read_text()
    assert len(text.splitlines()) == lines
    if ending == ".tex":
        assert text.splitlines()[2].startswith(r"a \textbackslash{}input\{b\}\&c & ")


def test_plain_text():
    lines = plain_table(scores(16)).splitlines()
    assert [line.split()[0] for line in lines[:16]] == NAMES_16
    assert not any("no pixel" in line for line in lines)
    nothing = plain_table(scores(16) | {"miou": math.nan})
    assert "no mIoU: no pixel of the labels has a class" in nothing.splitlines()
    assert lines[1] == "sidewalk        1.25" and lines[15].split() == ["bicycle", "nan"]
    assert lines[16] == "mIoU over 16              8.75" and lines[17] == "mIoU over 13              9.11"
    assert lines[18] == "overall accuracy         50.00"
    assert lines[21:] == ["checkpoint: logs/a_b|50%/best.pkl", "quirks: none", "torch: 2.9.1", "images: 7"]


# --- beside the published figures -------------------------------------------------------------------------


def test_long_names_leave_the_figures_below_one_another():
    long = scores() | {"classes": [f"{name} of a town in the north" for name in NAMES_19]}
    lines = plain_table(long).splitlines()[:19]
    assert len({len(line) for line in lines}) == 1
    assert [float(line.split()[-1]) for line in lines[:18]] == EXPECTED_19


def test_published_figures_stand_beside_a_scoring_like_theirs(tmp_path):
    rows = published_rows(19)
    lines = plain_table(scores(), rows).splitlines()
    assert lines[0].split()[-4:] == ["warm_up", "stage1", "stage2", "stage3"]
    named = {line.split()[0]: line.split()[1:] for line in lines[1:20]}
    assert named["road"] == ["0.25", "91.7", "93.0", "92.8"]
    assert named["bicycle"] == ["nan", "48.4", "54.2", "55.6"]
    (mean,) = [line for line in lines if line.startswith("mIoU over 19")]
    assert mean.split()[3:] == ["8.75", "41.4", "55.7", "59.4", "60.8"]
    columns = [line.rindex(figure) + 4 for line, figure in ((lines[1], "92.8"), (mean, "60.8"))]
    assert columns == [len(lines[0])] * 2  # each figure ends below its title's end
    for ending in (".csv", ".md", ".tex"):
        save_table(scores(), tmp_path / f"t{ending}", rows)
    table = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert [row["checkpoint"] for row in table[1:]] == [
        f"published {name}" for name in ("warm_up", "stage1", "stage2", "stage3")
    ]
    assert (table[1]["road"], table[3]["train"], table[4]["mIoU (19)"]) == ("nan", "23.7", "60.8")
    assert r"published stage3 & 92.8 & 57.7" in (tmp_path / "t.tex").read_text().replace("\\_", "_")
    assert "| published warm_up | - | " in (tmp_path / "t.md").read_text()


def test_published_figures_over_16_and_13():
    lines = plain_table(scores(16), published_rows(16)).splitlines()
    found = {line.split()[2]: line.split()[3:] for line in lines if line.startswith("mIoU over")}
    assert found == {"16": ["8.75", "57.9"], "13": ["9.11", "65.3"]}
    assert published_rows(13) == ()


def test_published_means_are_those_of_their_classes():
    for row in published_rows(19)[1:]:
        assert len(row.iou) == 19
        assert sum(row.iou) / 19 == pytest.approx(row.means[19], abs=0.06)  # of 19 rounded figures


# --- what a table says ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quirks", "words"),
    [
        (Quirks().active(), "reference"),
        ([], "none"),
        (["flat_replay", "ema_train_mode"], "ema_train_mode, flat_replay"),
        *((other, "not recorded") for other in (["\x1b[2Jtypo"], {"flat_replay": 1}, [["flat_replay"]])),
    ],
)
def test_quirks_of_a_checkpoint(quirks, words):
    assert recorded_quirks({"quirks": quirks}) == words and recorded_quirks({}) == "not recorded"


@pytest.mark.parametrize("name", ["row.txt", "row", "md"])
def test_a_table_of_an_unknown_form_is_refused(capsys, name):
    with pytest.raises(SystemExit) as end:
        parse("test", "", ["--table", name])
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.count("\n") == 1
    assert name in error and ".md, .tex, .csv" in error
