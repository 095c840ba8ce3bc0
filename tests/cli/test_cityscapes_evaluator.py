"""Cityscapes' own evaluator takes what `--zip` packs, and finds the IoU that test.py finds."""

from __future__ import annotations

import json
import sys
import zipfile
from types import SimpleNamespace

import pytest
from cli_tools import draw_mini, run_here

NUMBERS = "--num_workers 0 --device cpu"


@pytest.mark.slow
def test_iou_of_each_class_is_that_of_cityscapesscripts(tmp_path, networks, monkeypatch):
    pytest.importorskip("cityscapesscripts")
    draw_mini("dataset --size 256,128 --source 2 --target 2 --val 12", tmp_path)
    model = f"--resume {networks / 'k19.pkl'} {NUMBERS}"
    run_here(f"python test.py {model} --img_size 256,128 --result scores.json", tmp_path, monkeypatch)
    images = "--images dataset/cityscapes/leftImg8bit/val --save_dir out --overlay --zip out.zip"
    run_here(f"python test.py {model} {images}", tmp_path, monkeypatch)
    zipfile.ZipFile(tmp_path / "out.zip").extractall(tmp_path / "unpacked")
    monkeypatch.setenv("CITYSCAPES_DATASET", str(tmp_path / "dataset" / "cityscapes"))
    monkeypatch.setenv("CITYSCAPES_RESULTS", str(tmp_path / "unpacked"))
    monkeypatch.setitem(sys.modules, "pyquaternion", SimpleNamespace(Quaternion=None))  # for 3-D boxes only
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official
    from cityscapesscripts.helpers.labels import trainId2label

    official.args.evalInstLevelScore = False  # drawn data sets have no pictures of instances
    monkeypatch.setattr(sys, "argv", ["evaluate"])
    official.main()
    theirs = json.loads(
        (tmp_path / "dataset/cityscapes/evaluationResults").glob("*.json").__next__().read_text()
    )
    ours = json.loads((tmp_path / "scores.json").read_text())
    assert ours["images"] == 12 and sum(value is not None for value in ours["iou"]) > 10
    for train_id, value in enumerate(ours["iou"]):
        expected = theirs["classScores"][trainId2label[train_id].name]
        assert (value is None and expected != expected) or value == pytest.approx(expected, abs=1e-12), (
            train_id
        )
    assert ours["miou"] == pytest.approx(theirs["averageScoreClasses"], abs=1e-12)
