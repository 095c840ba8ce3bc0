"""Options: defaults, the order of their sources, and what is refused."""

from __future__ import annotations

import gc
import math
from pathlib import Path

import pytest

from utils.options import build_parser, one_line, option_words, parse, run_script

STAGE1 = ["--ema", "--proto_rectify"]
SOFT = "./Pseudo/gta2citylabv2_warmup_soft"
WARM_UP_FILE = "pretrained/from_gta5_to_cityscapes_on_deeplab101_best_model_warmup.pkl"
DEFAULTS = {
    "name": "gta2city",
    "model_name": "deeplabv2",
    "lr": 1e-4,
    "bs": 4,
    "freeze_bn": False,
    "epochs": 128,
    "train_iters": 90000,
    "moving_prototype": False,
    "bn": "sync_bn",
    "no_resume": False,
    "seed": 6523,
    "stage": "stage1",
    "finetune": False,
    "resume_path": Path(WARM_UP_FILE),
    "ema": False,
    "ema_bn": False,
    "student_init": "stage1",
    "proto_momentum": 1e-4,
    "bn_clr": False,
    "src_dataset": "gta5",
    "tgt_dataset": "cityscapes",
    "src_rootpath": Path("./dataset/GTA5"),
    "tgt_rootpath": Path("./dataset/cityscapes"),
    "path_LP": Path(SOFT),
    "path_soft": Path(SOFT),
    "train_thred": 0,
    "used_save_pseudo": False,
    "no_droplast": False,
    "resize": 2200,
    "rcrop": (896, 512),
    "hflip": 0.5,
    "jitter": 0.4,
    "n_class": 19,
    "num_workers": 6,
    "gan": "LS",
    "adv": 0.01,
    "S_pseudo_src": 0,
    "rce": False,
    "rce_alpha": 0.1,
    "rce_beta": 1.0,
    "regular_w": 0,
    "regular_type": "MRKLD",
    "proto_consistW": 1.0,
    "distillation": 0,
    "SL_lambda": 0.1,
    "S_pseudo": 0,
    "contrast_lambda": 0.001,
    "fbs": 256,
    "queue_length": 65536,
    "ds_rate": 4,
    "temperature": 0.08,
    "epsilon": 0.05,
    "sinkhorn_iterations": 3,
    "print_interval": 20,
    "val_interval": 1000,
    "update_interval": 1,
    "noshuffle": False,
    "noaug": False,
    "proto_rectify": False,
    "class_balance": False,
    "proto_temperature": 1.0,
    "threshold": 0,
    "quirks": "reference",
}


@pytest.mark.parametrize("name", sorted(DEFAULTS))
def test_default_of(name):
    assert getattr(build_parser("train").parse_args([]), name) == DEFAULTS[name]


def test_defaults_survive_parsing():
    options = parse("train", "", STAGE1)
    for name in DEFAULTS.keys() - {"ema", "proto_rectify"}:
        assert getattr(options, name) == DEFAULTS[name], name


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("prototypes", {"source": False}),
        ("pseudo_label", {"save_path": Path("./Pseudo"), "soft": False, "flip": False}),
        (
            "distribution",
            {"save_path": Path("./Pseudo"), "soft": False, "flip": False, "portion": 0.6},
        ),
    ],
)
def test_options_of_a_script(script, expected):
    options = parse(script, "", [])
    assert {name: getattr(options, name) for name in expected} == expected


@pytest.mark.parametrize("script", ["test", "prototypes", "pseudo_label", "distribution"])
def test_scripts_that_predict_neither_augment_nor_shuffle(script):
    options = parse(script, "", [])
    assert options.noaug and options.noshuffle
    training = parse("train", "", STAGE1)
    assert not training.noaug and not training.noshuffle


def test_resume_is_a_legal_prefix():
    options = parse("train", "", [*STAGE1, "--resume", "a/b.pkl"])
    assert options.resume_path == Path("a/b.pkl")


def test_no_other_option_begins_with_resume():
    for script in ("train", "test", "prototypes", "pseudo_label", "distribution"):
        names = [s for a in build_parser(script)._actions for s in a.option_strings]
        assert [name for name in names if name.startswith("--resume")] == ["--resume_path"]


@pytest.mark.parametrize("script", ["train", "test", "prototypes", "pseudo_label", "distribution", "check"])
def test_root_is_accepted_without_effect(script):
    before = parse(script, "", STAGE1)
    after = parse(script, "", [*STAGE1, "--root", "/data/sets"])
    assert after.decisive() == before.decisive()
    assert after.src_rootpath == before.src_rootpath and after.tgt_rootpath == before.tgt_rootpath
    names = [s for a in build_parser(script)._actions for s in a.option_strings]
    assert [name for name in names if name.startswith("--ro")] == ["--root"]  # takes no abbreviation away
    assert len([name for name in names if name.startswith("--r")]) > 2


def test_synthia_has_its_own_default_folder():
    arguments = [*STAGE1, "--src_dataset", "synthia", "--n_class", "16"]
    assert parse("train", "", arguments).src_rootpath == Path("./dataset/SYNTHIA")
    given = parse("train", "", [*arguments, "--src_rootpath", "x"])
    assert given.src_rootpath == Path("x")


def test_every_stage_is_known():
    for stage in ("warm_up", "stage1", "stage2", "stage3"):
        assert parse("train", "", [*STAGE1, "--stage", stage]).stage == stage


# --- sources ----------------------------------------------------------------------------------------------


def config(tmp_path: Path, text: str) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return str(path)


def test_command_line_wins_over_yaml_wins_over_default(tmp_path):
    path = config(
        tmp_path,
        "ema: true\nproto_rectify: true\nrce: true\nfinetune: false\nlr: 2.5e-4\n"
        "bs: 2\nrcrop: 64,32\nfbs: 32\n",
    )
    for arguments in (["--config", path, "--bs", "8"], ["--bs", "8", "--config", path]):
        options = parse("train", "", arguments)
        assert (options.lr, options.bs, options.rcrop) == (2.5e-4, 8, (64, 32))
        assert options.ema and options.rce and not options.finetune
        assert options.epsilon == 0.05


def test_yaml_lists_are_sizes(tmp_path):
    path = config(tmp_path, "rcrop: [64, 32]\nstage: warm_up\n")
    assert parse("train", "", ["--config", path]).rcrop == (64, 32)


def test_an_abbreviated_config_is_read_or_refused_but_not_ignored(tmp_path):
    path = config(tmp_path, "stage: warm_up\nbs: 2\n")
    try:
        options = parse("train", "", [*STAGE1, "--conf", path])
    except SystemExit as exit_:
        assert exit_.code == 2
    else:
        assert options.bs == 2


def test_option_words_name_unknown_keys():
    parser = build_parser("train")
    assert option_words({"lr": 1e-4, "rce": True, "ema": False}, parser) == ["--lr", "0.0001", "--rce"]
    with pytest.raises(ValueError, match="learning_rate"):
        option_words({"learning_rate": 1}, parser)
    with pytest.raises(ValueError, match="rce"):
        option_words({"rce": 3}, parser)


def assert_refused(capsys, arguments: list[str], *words: str, script: str = "train") -> None:
    """Exit code 2, nothing on stdout, one line on stderr that holds the words."""
    with pytest.raises(SystemExit) as raised:
        parse(script, "", arguments)
    out, err = capsys.readouterr()
    assert raised.value.code == 2
    assert out == ""
    assert err.endswith("\n") and err.count("\n") == 1, err
    for word in words:
        assert word in err


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("learning_rate: 1\n", "learning_rate"),
        ("resume: x\n", "resume"),
        ("rce: 1\n", "rce"),
        ("bs: many\n", "bs"),
        ("- a\n- b\n", "run.yaml"),
        ("", "run.yaml"),
        ("a: [1\n", "run.yaml"),
        ("steps: []\n", "reproduce.py"),
        ("config: other.yaml\n", "config"),
        ("lr: -1\n", "--lr"),
    ],
    ids=["unknown", "prefix", "switch", "value", "list", "empty", "broken", "recipe", "nested", "negative"],
)
def test_impossible_yaml(tmp_path, capsys, text, word):
    assert_refused(capsys, [*STAGE1, "--config", config(tmp_path, text)], word)


def test_missing_yaml_is_named(tmp_path, capsys):
    assert_refused(capsys, ["--config", str(tmp_path / "none.yaml")], "none.yaml")
    assert_refused(capsys, ["--config", str(tmp_path)], str(tmp_path))


IMPOSSIBLE = [
    "--stage stage4",
    "--bs 0",
    "--bs -2",
    "--bs 1.5",
    "--n_class 20",
    "--rcrop 900,512",
    "--rcrop 896,500",
    "--rcrop 0,0",
    "--rcrop 896",
    "--rcrop a,b",
    "--threshold 1",
    "--threshold -0.1",
    "--threshold nan",
    "--train_thred 1",
    "--train_thred -0.5",
    "--hflip 1.5",
    "--jitter -1",
    "--lr 0",
    "--lr nan",
    "--lr inf",
    "--temperature 0",
    "--epsilon -0.05",
    "--sinkhorn_iterations 0",
    "--train_iters 0",
    "--epochs 0",
    "--resize 0",
    "--fbs 0",
    "--queue_length 0",
    "--print_interval 0",
    "--val_interval 0",
    "--num_workers -1",
    "--threads 0",
    "--max_images 0",
    "--img_size 4,4",
    "--seed -1",
    "--adv -1",
    "--S_pseudo -1",
    "--S_pseudo_src -1",
    "--SL_lambda -0.1",
    "--contrast_lambda -1",
    "--proto_consistW -1",
    "--distillation -1",
    "--regular_w -1",
    "--rce_alpha -1",
    "--rce_beta nan",
    "--gan WGAN",
    "--bn none",
    "--student_init random",
    "--src_dataset kitti",
    "--tgt_dataset kitti",
    "--regular_type L2",
    "--quirks Q99",
    "--name ../x",
    "--nonsense 1",
    "--bs",
    "--config",
]


@pytest.mark.parametrize("arguments", IMPOSSIBLE)
def test_impossible_values_end_in_one_line(capsys, arguments):
    words = arguments.split()
    assert_refused(capsys, [*STAGE1, *words], words[0])


def test_a_queue_shorter_than_the_sample_is_refused(capsys):
    assert_refused(capsys, [*STAGE1, "--queue_length", "100", "--fbs", "101"], "--fbs", "--queue_length")
    assert parse("train", "", [*STAGE1, "--queue_length", "100", "--fbs", "100"]).fbs == 100


def test_stage1_without_ema_or_rectification_is_refused(capsys):
    for arguments in ([], ["--ema"], ["--proto_rectify"]):
        assert_refused(capsys, arguments, "--ema", "--proto_rectify")
    assert parse("train", "", ["--stage", "stage2"]).stage == "stage2"
    assert parse("test", "", []).stage == "stage1"


def test_stage1_with_unequal_models_is_refused(capsys):
    for one in ("--bn_clr", "--ema_bn"):
        assert_refused(capsys, [*STAGE1, one], "--bn_clr", "--ema_bn")
    assert parse("train", "", [*STAGE1, "--bn_clr", "--ema_bn"]).bn_clr


def test_options_of_other_scripts_are_refused(capsys):
    assert_refused(capsys, [*STAGE1, "--soft"], "--soft")
    assert_refused(capsys, ["--flip"], "--flip", script="test")


# --- after parsing ----------------------------------------------------------------------------------------


def test_options_are_frozen():
    options = parse("train", "", STAGE1)
    for name, value in (("lr", 1.0), ("something_new", 1)):
        with pytest.raises(AttributeError, match=name):
            setattr(options, name, value)
    assert options.lr == 1e-4
    assert not hasattr(options, "something_new")


def test_values_are_plain_and_complete():
    values = parse("train", "", STAGE1).values()
    assert DEFAULTS.keys() <= values.keys()
    assert values["rcrop"] == [896, 512]
    assert values["resume_path"] == WARM_UP_FILE
    assert not any(name.startswith("_") for name in values)
    assert all(isinstance(v, int | float | str | bool | list | None) for v in values.values())


def test_quirks_come_parsed():
    options = parse("train", "", [*STAGE1, "--quirks", "none"])
    assert options.quirks_on.active() == []


def test_run_script_turns_expected_errors_into_one_line():
    def fail(error: Exception):
        def main() -> None:
            raise error

        return main

    for error in (FileNotFoundError("a.png: missing"), ValueError("a.png: missing")):
        with pytest.raises(SystemExit) as raised:
            run_script(fail(error))
        assert raised.value.code == "error: a.png: missing"  # text on stderr, exit code 1
    for error in (KeyError("x"), RuntimeError("shape")):
        with pytest.raises(type(error)):
            run_script(fail(error))
    with pytest.raises(SystemExit, match="--bs"):
        run_script(fail(RuntimeError("CUDA out of memory. Tried …\nmore")))


def test_nothing_that_a_frame_held_outlives_an_error():
    """A loader that did would keep its processes, which this process would wait for in vain."""

    class Held:
        def __del__(self):
            gone.append(True)

    def main() -> None:
        held = Held()  # noqa: F841
        try:
            raise ValueError("x")
        except ValueError as error:
            circle = error  # frame → error → traceback → frame
            raise circle from None

    gone = []
    gc.disable()
    try:
        with pytest.raises(SystemExit):
            run_script(main)
        assert gone
    finally:
        gc.enable()


def test_learning_rates_of_the_readme_are_exact():
    assert math.isclose(parse("train", "", [*STAGE1, "--lr", "2.5e-4"]).lr, 2.5e-4, rel_tol=0)


@pytest.mark.parametrize("value", ["[[1, 2]]", "{a: b}", "null", "[null]"])
def test_a_value_that_is_no_value_is_refused(tmp_path, capsys, value):
    path = tmp_path / "options.yaml"
    path.write_text(f"lr: {value}\n")
    with pytest.raises(SystemExit):
        parse("test", "", ["--config", str(path)])
    line = capsys.readouterr().err
    assert str(path) in line and "lr" in line and line.count("\n") == 1


def test_messages_are_one_line_whatever_they_cite():
    message = one_line(ValueError("x.yaml: a\nb\x1b[2J" + "c" * 10**6))
    assert message.startswith("x.yaml: a b") and message.isprintable() and len(message) < 5000


def test_a_home_of_nobody_is_a_path():
    assert parse("test", "", ["--tgt_rootpath", "~nobody_at_all/x"]).tgt_rootpath == Path("~nobody_at_all/x")
