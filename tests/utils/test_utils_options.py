"""Options: defaults, the order of their sources, and what is refused."""

from __future__ import annotations

import ast
import gc
import io
import itertools
import re
import shlex
import sys
from pathlib import Path

import pytest
from torch._utils import ExceptionWrapper

from engine.log import get_logger
from utils.distributed import environment_problem, started_apart
from utils.errors import one_line, run_script
from utils.options import default_values, option_words, parse
from utils.options.declarations import COMPATIBLE, STAGES, options_of
from utils.options.help import grouped
from utils.options.uses import _NEEDS, _USES, places_of
from utils.recipe import read_recipe

SCRIPTS = ("train", "test", "prototypes", "pseudo_label", "distribution", "check")
STAGE1 = ["--ema", "--proto_rectify"]
SOFT = "./Pseudo/gta2citylabv2_warmup_soft"
WARM_UP_FILE = "pretrained/from_gta5_to_cityscapes_on_deeplab101_best_model_warmup.pkl"
RELEASED = {  # the released code's defaults that differ from what its README's commands set
    "name": "gta2city",
    "lr": 1e-4,
    "stage": "stage1",
    "student_init": "stage1",
    "resume_path": Path(WARM_UP_FILE),
    "path_LP": Path(SOFT),
    "path_soft": Path(SOFT),
    "threshold": 0,
    "proto_consistW": 1.0,
    "distillation": 0,
    "SL_lambda": 0.1,
    "S_pseudo": 0,
} | dict.fromkeys(
    ("no_resume", "finetune", "ema_bn", "bn_clr", "rce", "used_save_pseudo", "no_droplast", "class_balance"),
    False,
)


def test_defaults_are_the_released_ones(monkeypatch):
    monkeypatch.setattr("utils.options.declarations.cores", lambda: 6)
    options = parse("train", "", STAGE1)
    assert {name: getattr(options, name) for name in RELEASED} == RELEASED
    assert (
        options.values().items() >= (default_values("train") | {"ema": True, "proto_rectify": True}).items()
    )
    assert options.changed() == {"ema": True, "proto_rectify": True}


def test_scripts_that_predict_neither_augment_nor_shuffle_and_have_options_of_their_own():
    written = {"save_path": Path("./Pseudo"), "soft": False, "flip": False}
    own = {
        "test": {},
        "prototypes": {"source": False},
        "pseudo_label": written,
        "distribution": written | {"portion": 0.6},
    }
    for script, expected in own.items():
        options = parse(script, "", [])
        assert options.noaug and options.noshuffle
        assert {name: getattr(options, name) for name in expected} == expected
    for stage in ("warm_up", "stage1", "stage2", "stage3"):
        training = parse("train", "", [*STAGE1, "--stage", stage])
        assert training.stage == stage and not training.noaug and not training.noshuffle


@pytest.mark.parametrize("script", SCRIPTS)
def test_resume_is_short_for_resume_path_and_root_has_no_effect(script):
    options = parse(script, "", [*STAGE1, "--resume", "a/b.pkl"])
    assert options.resume_path == Path("a/b.pkl")
    assert parse(script, "", [*STAGE1, "--resume=a/b.pkl"]).values() == options.values()
    rooted = parse(script, "", [*STAGE1, "--root", "/data/sets"])
    assert rooted.decisive() == parse(script, "", STAGE1).decisive()
    assert (rooted.src_rootpath, rooted.tgt_rootpath) == (options.src_rootpath, options.tgt_rootpath)
    # --root takes no abbreviation away.
    assert [name for name in default_values(script) if name.startswith("ro")] == ["root"]


def test_ambiguous_and_literal_words(capsys):
    assert_refused(capsys, [*STAGE1, "--re", "x"], "--re", "--resize", "--resume_path", "ambiguous")
    assert_refused(capsys, [*STAGE1, "--", "--rce"], "--rce")  # no option behind two dashes


def test_synthia_has_its_own_default_folder():
    arguments = [*STAGE1, "--src_dataset", "synthia", "--n_class", "16"]
    assert parse("train", "", arguments).src_rootpath == Path("./dataset/SYNTHIA")
    given = parse("train", "", [*arguments, "--src_rootpath", "x"])
    assert given.src_rootpath == Path("x")


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


def test_yaml_lists_are_sizes_under_an_abbreviated_config(tmp_path):
    path = config(tmp_path, "rcrop: [64, 32]\nstage: warm_up\nbs: 2\n")
    options = parse("train", "", [*STAGE1, "--conf", path])
    assert options.rcrop == (64, 32) and options.bs == 2


def test_option_words_name_unknown_keys():
    assert option_words({"lr": 1e-4, "rce": True, "ema": False}, "train") == ["--lr", "0.0001", "--rce"]
    for wrong in ({"learning_rate": 1}, {"rce": 3}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            option_words(wrong, "train")


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
        ("lr: fast\n", "--lr"),
        *((f"lr: {value}\n", "lr") for value in ("[[1, 2]]", "{a: b}", "null", "[null]")),
    ],
)
def test_impossible_yaml(tmp_path, capsys, text, word):
    assert_refused(capsys, [*STAGE1, "--config", config(tmp_path, text)], word, "run.yaml")


def test_missing_yaml_is_named(tmp_path, capsys):
    assert_refused(capsys, ["--config", str(tmp_path / "none.yaml")], "none.yaml")
    assert_refused(capsys, ["--config", str(tmp_path)], str(tmp_path))


COUNTS = ("train_iters", "epochs", "resize", "fbs", "queue_length", "val_interval", "sinkhorn_iterations")
WEIGHTS = ("adv", "S_pseudo", "S_pseudo_src", "SL_lambda", "contrast_lambda", "proto_consistW", "regular_w")
IMPOSSIBLE = {  # option → values
    **dict.fromkeys((*COUNTS, "threads", "max_images", "gpus", "save_interval"), "0"),
    **dict.fromkeys((*WEIGHTS, "distillation", "rce_alpha", "rce_beta"), "-1 nan inf"),
    **dict.fromkeys(("num_workers", "picture_interval"), "-1"),
    **dict.fromkeys(("threshold", "train_thred", "prototype_ema"), "1 1.5 -0.1 nan"),
    **dict.fromkeys(("hflip", "jitter"), "1.5 -1"),
    **dict.fromkeys(("lr", "disc_lr", "temperature", "epsilon"), "0 -0.05 nan inf"),
    "bs": "0 -2 1.5 x",
    "print_interval": "0 -1",
    "seed": "-1 1.5",
    "n_class": "20",
    "rcrop": "900,512 896,500 100,64 0,0 64,-8 896 64 a,b",
    "img_size": "4,4 wide",
    "stage": "stage4",
    "gan": "WGAN",
    "bn": "none group_norm",
    "student_init": "random vgg",
    "src_dataset": "kitti",
    "tgt_dataset": "kitti gta5",
    "regular_type": "L2",
    "quirks": "Q99 none,typo",
    "name": "../x /tmp",
    "nonsense": "1",
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_values_end_in_one_line(capsys, name):
    for value in IMPOSSIBLE[name].split():
        assert_refused(capsys, [*STAGE1, f"--{name}", value], f"--{name}")


COMBINATIONS = {  # words → words of the error
    "--bs": "--bs",  # no value
    "--config": "--config",
    "--ema --proto_rectify --queue_length 100 --fbs 101": "--fbs --queue_length",
    "--ema --proto_rectify --bn_clr": "--bn_clr --ema_bn",
    "--ema --proto_rectify --ema_bn": "--bn_clr --ema_bn",
    "--ema --proto_rectify --soft": "--soft",  # of another script
}


@pytest.mark.parametrize("words", COMBINATIONS)
def test_combinations_that_cannot_work_are_refused(capsys, words):
    assert_refused(capsys, words.split(), *COMBINATIONS[words].split())


def test_combinations_that_work():
    assert parse("train", "", [*STAGE1, "--queue_length", "100", "--fbs", "100"]).fbs == 100
    assert parse("train", "", ["--stage", "stage2"]).stage == "stage2"
    assert parse("test", "", []).stage == "stage1"
    assert parse("train", "", [*STAGE1, "--bn_clr", "--ema_bn"]).bn_clr
    assert parse("test", "", ["--tgt_rootpath", "~nobody_at_all/x"]).tgt_rootpath == Path("~nobody_at_all/x")


def test_an_analysis_that_is_never_shown_is_none():
    assert parse("train", "", [*STAGE1, "--analysis"]).analyses
    assert not parse("train", "", [*STAGE1, "--analysis", "--picture_interval", "0"]).analyses


# --- options that do nothing ------------------------------------------------------------------------------

WARM, FILES = "--stage warm_up", "--images a --save_dir b"
PLAIN = "--SL_lambda 0 --proto_consistW 0 --contrast_lambda 0"
IDLE = [  # script, words, options of these that do nothing
    ("train", "--stage source_only --rcrop 64,32 --fbs 32 --no_resume --jitter 0.1", "fbs no_resume jitter"),
    ("train", f"{WARM} --gan LS --adv 0.1 --bs 2 --path_soft x --rce --finetune", "path_soft rce finetune"),
    ("train", f"{WARM} --student_init simclr", "student_init"),
    ("train", f"{WARM} --student_init simclr --no_resume", ""),
    ("train", f"{WARM} --jitter 0.2", "jitter"),
    ("train", f"{WARM} --jitter 0.2 --S_pseudo_src 1", ""),
    ("train", f"{PLAIN} --jitter 0.2", "jitter"),
    ("train", f"{PLAIN} --S_pseudo 1 --jitter 0.2", ""),
    ("train", "--ema --proto_rectify --adv 1 --rce_beta 1 --threshold 0.9", "threshold adv rce_beta"),
    ("train", "--ema --proto_rectify --rce --rce_beta 1 --train_thred 0.9", ""),
    ("train", "--SL_lambda 0 --epsilon 0.1 --fbs 32 --class_distribution x", "epsilon class_distribution"),
    ("train", "--SL_lambda 0 --prototype_ema 0.9", "prototype_ema"),
    ("train", "--finetune --prototype_ema 0.9", "prototype_ema"),
    ("train", "--prototype_ema 0.9", ""),
    ("train", f"{PLAIN} --ema --fbs 32 --temperature 1 --prototypes x", "ema fbs temperature prototypes"),
    ("train", "--ema --proto_rectify --analysis --picture_interval 0", "analysis"),
    ("train", "--stage stage2 --ema_bn --epsilon 0.1 --analysis --path_LP x", "ema_bn epsilon analysis"),
    ("train", "--stage stage3 --ema_bn --distillation 1 --noaug --hflip 0.1", "hflip"),
    ("train", f"{WARM} --moving_prototype --used_save_pseudo", "used_save_pseudo moving_prototype"),
    ("train", "--stage source_only --src_dataset folder --colour_transfer", "colour_transfer"),
    ("train", f"{WARM} --nonfinite_limit 3 --cache_limit 3", "cache_limit nonfinite_limit"),
    ("test", "--name x --lr 1 --infer_bs 2 --stage stage2", "name stage lr"),
    ("test", f"{FILES} --infer_bs 2 --tgt_rootpath x --flip", "infer_bs tgt_rootpath"),
    ("pseudo_label", "--soft --conf_dtype uint8 --flip --src_rootpath x", "src_rootpath conf_dtype flip"),
    ("prototypes", "--src_rootpath x --save_interval 2", "src_rootpath save_interval"),
    ("prototypes", "--source --src_rootpath x --tgt_rootpath y", "tgt_rootpath"),
    ("distribution", "--soft --portion 1 --class_balance --save_path x", "class_balance soft portion"),
    ("distribution", "--class_distribution x --save_path x", "save_path"),
    ("check", "--stage source_only --fbs 32 --resume_path x --ema", ""),
]


def named(line: str) -> set[str]:
    """The options that the line names."""
    assert line.startswith("without effect here: ") or not line
    return set(line.removeprefix("without effect here: ").split(", ")) - {""}


@pytest.mark.parametrize(("script", "words", "idle"), IDLE)
def test_given_options_that_do_nothing_are_named_in_one_line(tmp_path, script, words, idle):
    expected = {f"--{name}" for name in idle.split()}
    assert named(parse(script, "", words.split()).without_effect) == expected
    pairs = [part.strip().partition(" ")[::2] for part in words.split("--") if part]
    text = "".join(f"{name}: {value.strip() or 'true'}\n" for name, value in pairs)
    assert named(parse(script, "", ["--config", config(tmp_path, text)]).without_effect) == expected


def test_the_baseline_refuses_a_checkpoint_and_no_resume_names_it(capsys):
    words = "--stage source_only --resume_path x.pkl"
    assert_refused(capsys, words.split(), "--resume_path x.pkl", "leave it out")
    for stage, idle in (("warm_up", True), ("stage2", True), ("stage2 --distillation 1", False)):
        words = f"--stage {stage} --no_resume --resume_path x.pkl"
        assert ("--resume_path" in parse("train", "", words.split()).without_effect) is idle
        assert not parse("train", "", words.replace("--no_resume", "").split()).without_effect
    assert not parse("train", "", [*STAGE1, "--resume_path", "x.pkl"]).without_effect


def test_the_table_of_uses_has_every_option_that_does_something():
    stages = {"source_only", "warm_up", "stage1", "stage2", "stage3"}
    always_done = {"class_balance", "used_save_pseudo"}
    for script in SCRIPTS[:-1]:
        for option in options_of(script).values():
            places = {place for place, name in _USES if name == option.dest}
            here = places & (stages if script == "train" else {script})
            nothing = option.help == COMPATIBLE or option.name in always_done
            assert not (nothing and here), option.name
            assert places or nothing, option.name
    declared = {option.dest for script in SCRIPTS for option in options_of(script).values()}
    assert {name for _, name in _USES} | _NEEDS.keys() <= declared


@pytest.mark.parametrize("name", ["gta5_to_cityscapes", "synthia_to_cityscapes", "own_data", "mini"])
def test_no_recipe_gives_an_option_that_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "city.yaml").write_text("classes: [road, sky]")  # of own_data
    scripts = {"generate_pseudo_label": "pseudo_label", "calc_prototype": "prototypes"}
    scripts |= {"generate_class_distribution": "distribution"}
    recipe = read_recipe(Path(__file__).parents[2] / "configs" / f"{name}.yaml", None, {})
    for step in recipe.steps:
        if step.script:
            words = shlex.split(step.shell())[2:]
            assert parse(scripts.get(step.script, step.script), "", words).resume_path


# --- the help ---------------------------------------------------------------------------------------------

FULL_SIZE = ("gta5_to_cityscapes", "synthia_to_cityscapes")
PARSER_OF = {"generate_pseudo_label": "pseudo_label", "calc_prototype": "prototypes"}
PARSER_OF |= {"generate_class_distribution": "distribution"}


def help_of(capsys, monkeypatch, script: str, word: str, columns: str = "200") -> str:
    """Return the text that a script prints for --help or --help_all."""
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit) as end:
        parse(script, "Do something.", [word])
    out, err = capsys.readouterr()
    assert end.value.code == 0 and err == ""
    return out


def options_in(text: str) -> list[str]:
    """The options that a help text lists, in its order."""
    return [name for name in re.findall(r"^  (?:-h, )?--(\w+)", text, re.MULTILINE) if "help" not in name]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_has_the_basic_options_and_help_all_every_one(capsys, monkeypatch, script):
    basic, every = (help_of(capsys, monkeypatch, script, word) for word in ("--help", "--help_all"))
    table = options_of(script)
    assert sorted(options_in(every)) == sorted(table)
    places = ({"train", "check"} & {script} and set(STAGES)) or {script}
    acting = {name for place, name in _USES if place in places}
    assert set(options_in(basic)) == {n for n, o in table.items() if o.basic and o.dest in acting}
    assert COMPATIBLE not in " ".join(basic.split()) and COMPATIBLE in " ".join(every.split())
    assert "--help_all" in basic and "--resume is the released code's spelling" in " ".join(basic.split())
    for text in (basic, every, help_of(capsys, monkeypatch, script, "--help_all", "70")):
        assert max(map(len, text.splitlines())) <= 100
    for word in ("--hel", "-h"):
        assert help_of(capsys, monkeypatch, script, word) == basic
    files = {full: short for short, full in PARSER_OF.items()} | {"check": "data/check"}
    path = Path(__file__).parents[2] / f"{files.get(script, script)}.py"
    assert max(map(len, ast.get_docstring(ast.parse(path.read_text())).splitlines())) <= 100


def test_help_is_grouped_by_stage_and_has_the_values_of_the_recipe(capsys, monkeypatch):
    text = help_of(capsys, monkeypatch, "train", "--help")
    groups = {block.partition(":\n")[0]: options_in(block) for block in text.split("\n\n")}
    assert groups["only in warm_up"] == ["gan", "adv"]
    assert {"ema", "proto_rectify", "SL_lambda"} <= set(groups["only in stage1"])
    assert {"threshold", "distillation"} <= set(groups["only in stage2, stage3"])
    assert {"stage", "name", "continue"} <= set(groups["every stage: run"])
    flat = " ".join(text.split())
    assert "(default: 0.0001; recipe: 0.00025 in warm_up; 0.0006 in stage2, stage3)" in flat
    assert "(recipe: 0.95 in stage2, stage3)" in flat and "(recipe: given in stage1)" in flat
    monkeypatch.setattr("utils.options.help._RECIPE", Path("nowhere.yaml"))
    assert "recipe: " not in help_of(capsys, monkeypatch, "train", "--help")


@pytest.mark.parametrize("name", FULL_SIZE)
def test_what_a_recipe_gives_is_in_the_help_of_its_script(name):
    for step in read_recipe(Path(__file__).parents[2] / "configs" / f"{name}.yaml", None, {}).steps:
        script = PARSER_OF.get(step.script, step.script)
        shown = {o.name for options in grouped(script).values() for o in options}
        acting = {n for n in step.options if places_of(n, script)}
        assert acting <= shown, step.name


def test_every_help_text_is_made_of_sentences():
    for script in SCRIPTS:
        for option in options_of(script).values():
            first = option.help.split()[0]
            names = option.type if isinstance(option.type, tuple) else ()
            assert option.help.endswith(".") and "  " not in option.help, option.name
            assert first[0].isupper() or first in names, option.name
            assert len(option.help.split()) >= 4, option.name
            assert not (option.basic and option.help == COMPATIBLE), option.name


# --- the environment --------------------------------------------------------------------------------------

WHOLE = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "host", "MASTER_PORT": "29500"}


def test_every_part_of_a_distributed_environment_is_refused_by_the_names_that_are_missing():
    subsets = [names for size in range(6) for names in itertools.combinations(WHOLE, size)]
    assert len(subsets) == 32
    for names in subsets:
        problem = environment_problem({name: WHOLE[name] for name in names} | {"SLURM_NTASKS": "4"})
        if len(names) == 5 or not {"RANK", "WORLD_SIZE", "LOCAL_RANK"} & set(names):
            assert problem is None, names
            continue
        missing = problem.partition(" without ")[2].partition("; ")[0].split(", ")
        assert sorted(missing) == sorted(WHOLE.keys() - set(names))
        assert "torchrun" in problem and problem.endswith("unset " + " ".join(names))
    one = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    assert (
        environment_problem(one) is None and environment_problem(one | {"MASTER_PORT": "tcp://h:1"}) is None
    )


WRONG = "RANK=x RANK=2 RANK=-1 RANK=1.0 WORLD_SIZE=0 WORLD_SIZE=two WORLD_SIZE=1 LOCAL_RANK=2 LOCAL_RANK=nan "
WRONG += (
    "LOCAL_WORLD_SIZE=1 LOCAL_WORLD_SIZE=0 LOCAL_WORLD_SIZE=x MASTER_PORT=a MASTER_PORT=0 MASTER_PORT=65536"
)


@pytest.mark.parametrize("wrong", WRONG.split())
def test_impossible_values_of_the_environment_are_named(wrong, monkeypatch, capsys):
    name, _, value = wrong.partition("=")
    for key, right in (WHOLE | {name: value}).items():
        monkeypatch.setenv(key, right)
    assert_refused(capsys, STAGE1, name, value, "torchrun")  # by every rank


def test_processes_that_a_scheduler_started_without_ranks_are_warned_once():
    for size, rank in (("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"), ("PMI_SIZE", "PMI_RANK")):
        assert "4 processes without a rank" in started_apart({size: "4", rank: "0"})
        assert started_apart({size: "4", rank: "1"}) is None and started_apart({size: "1", rank: "0"}) is None
    assert started_apart({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}) is None  # sbatch -n 4, one process


# --- after parsing ----------------------------------------------------------------------------------------


def test_options_are_frozen_plain_and_complete():
    options = parse("train", "", [*STAGE1, "--lr", "2.5e-4", "--quirks", "none"])
    for name, value in (("lr", 1.0), ("something_new", 1)):
        with pytest.raises(AttributeError, match=name):
            setattr(options, name, value)
    assert options.lr == 2.5e-4 and not hasattr(options, "something_new")
    assert options.quirks_on.active() == []
    values = options.values()
    assert values.keys() == default_values("train").keys()
    assert values["rcrop"] == [896, 512]
    assert values["resume_path"] == WARM_UP_FILE
    assert not any(name.startswith("_") for name in values)
    assert all(isinstance(v, int | float | str | bool | list | None) for v in values.values())


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


MACHINE = [  # errors of a machine, and a word of the remedy
    (RuntimeError("unable to write to file </torch_1_2_3>: No space left on device (28)"), "shm-size"),
    (
        RuntimeError("unable to open shared memory object </torch_1_2_3>: Too many open files (24)"),
        "ulimit -n",
    ),
    (OSError(24, "Too many open files"), "ulimit -n"),
    (OSError(28, "No space left on device"), "room"),
    (BlockingIOError(11, "Resource temporarily unavailable"), "ulimit -u"),
    (RuntimeError("can't start new thread"), "ulimit -u"),
    (FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"), "TMPDIR"),
    (MemoryError("Unable to allocate 8 PiB"), "--num_workers"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "--num_workers"),
    (RuntimeError("CUDA out of memory. Tried to allocate"), "--bs"),
]


@pytest.mark.parametrize("in_worker", [False, True])
@pytest.mark.parametrize(("error", "remedy"), MACHINE, ids=str)
def test_errors_of_a_machine_keep_their_reason_and_have_a_remedy(error, remedy, in_worker):
    said = str(error)
    if in_worker:  # as torch brings it to the main process
        try:
            raise error
        except Exception:
            wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
        with pytest.raises(type(error)) as raised:
            wrapped.reraise()
        error = raised.value
    line = one_line(error)
    assert line.startswith(said) and remedy in line.removeprefix(said) and "\n" not in line


def test_a_mistake_in_a_worker_keeps_its_traceback():
    for error in (KeyError("x"), RuntimeError("the shapes do not fit")):
        message = f"Caught {type(error).__name__} in DataLoader worker process 0.\nOriginal Traceback …"
        assert one_line(type(error)(f'{message}\n  File "a.py", line 1\n{error!r}')) is None


def test_an_ascii_terminal_gets_the_codes_of_other_signs(monkeypatch, tmp_path):
    bytes_shown = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(bytes_shown, encoding="ascii"))
    logger = get_logger(tmp_path)

    def main() -> None:
        print("2048×1024, η")
        logger.info("mean ± deviation of \udcff")
        sys.stdout.flush()

    run_script(main)
    shown = bytes_shown.getvalue().decode("ascii")
    assert "2048\\xd71024, \\u03b7" in shown and "mean \\xb1 deviation" in shown
    get_logger()  # closes the file
    assert "mean ± deviation of \\udcff" in (tmp_path / "run.log").read_text(encoding="utf-8")


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


def test_messages_are_one_line_whatever_they_cite():
    message = one_line(ValueError("x.yaml: a\nb\x1b[2J" + "c" * 10**6))
    assert message.startswith("x.yaml: a b") and message.isprintable() and len(message) < 5000


def test_no_more_loading_processes_than_cores_unless_asked_for(monkeypatch):
    monkeypatch.setattr("utils.options.declarations.cores", lambda: 3)
    assert parse("train", "", STAGE1).num_workers == 3
    assert parse("train", "", [*STAGE1, "--num_workers", "5"]).num_workers == 5
