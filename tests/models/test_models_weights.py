"""Which file fills which tensors, and what is said when it does not fit."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor, nn

from models import DeepLabV2, deeplabv2
from models.weights import _renamed, load_backbone, load_network, network_shape


def network(n_class: int = 19, norm: bool = False, seed: int = 0) -> DeepLabV2:
    torch.manual_seed(seed)
    return deeplabv2("mini", n_class, pretrain_norm=norm)


def state(**options) -> dict[str, Tensor]:
    return dict(network(seed=1, **options).state_dict())


def assert_unchanged(built: nn.Module, before: dict[str, Tensor]) -> None:
    for name, value in built.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_fitting_state_fills_everything():
    built, given = network(), state()
    assert not torch.equal(built.conv1.weight, given["conv1.weight"])
    load_network(built, given, "x")
    assert_unchanged(built, given)


@pytest.mark.parametrize(
    ("norm", "given", "change", "words"),
    [
        (False, {}, {"layer3.1.conv2.weight": None}, "layer3.1.conv2.weight"),
        (False, {}, {"layer9.weight": torch.zeros(1)}, "layer9.weight"),
        (False, {}, {"conv1.weight": torch.zeros(16, 3, 3, 3)}, "conv1.weight"),
        (False, {"n_class": 16}, {}, "--n_class 16 19"),
        (False, {"norm": True}, {}, "--bn_clr --ema_bn add"),
        (True, {}, {}, "--bn_clr --ema_bn leave out"),
        (False, {"n_class": 16, "norm": True}, {}, ""),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(norm, given, change, words):
    built = network(norm=norm)
    before = {k: v.clone() for k, v in built.state_dict().items()}
    content = {k: v for k, v in (state(**given) | change).items() if v is not None}
    with pytest.raises(ValueError, match=r"some/file\.pkl") as raised:
        load_network(built, content, "some/file.pkl")
    assert_unchanged(built, before)
    message = str(raised.value)
    assert "\n" not in message and all(word in message for word in words.split())


def put(value: float, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """A weight of layer 3 with one number replaced."""
    spoilt = state()["layer3.0.conv2.weight"].to(dtype).clone()
    spoilt[1, 2] = value
    return {"layer3.0.conv2.weight": spoilt}


@pytest.mark.parametrize(
    "change",
    [
        put(math.nan),
        put(math.inf),
        put(-math.inf, torch.float16),
        put(1e39, torch.float64),  # infinite in the network
        {"bn1.running_var": torch.full((16,), math.nan)},
        {"layer5.head.1.weight": torch.full((19, 64, 1, 1), math.nan)},
    ],
)
def test_a_number_that_is_not_finite_is_refused_and_changes_nothing(change):
    built = network()
    before = {k: v.clone() for k, v in built.state_dict().items()}
    (name,) = change
    with pytest.raises(ValueError, match=f"^some/file.pkl: .*{re.escape(name)} are not finite"):
        load_network(built, state() | change, "some/file.pkl")
    assert_unchanged(built, before)
    if name.startswith("layer5"):  # the head starts anew
        load_backbone(built, state() | change, "some/file.pkl")
    else:
        with pytest.raises(ValueError, match=re.escape(name)):
            load_backbone(built, state() | change, "some/file.pkl")
        assert_unchanged(built, before)


def test_counters_of_batches_may_be_missing():
    given = state(norm=True)
    old = {k: v for k, v in given.items() if not k.endswith("num_batches_tracked")}
    assert len(old) < len(given)
    built = network(norm=True)
    load_network(built, old, "x")
    assert_unchanged(built, given)  # nothing has counted yet


def torchvision_like() -> dict[str, Tensor]:
    """A classifier by torchvision's names: without our head, with `fc`, without counters as in old files."""
    given = {
        k: v
        for k, v in state().items()
        if not k.startswith("layer5.") and not k.endswith("num_batches_tracked")
    }
    return given | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}


def test_a_backbone_fills_everything_below_the_head():
    built, given = network(norm=True), torchvision_like()
    before = {k: v.clone() for k, v in built.state_dict().items()}
    report = load_backbone(built, given, "weights.pth")
    after = built.state_dict()
    for name, value in after.items():
        if name in given:
            assert torch.equal(value, given[name]), name
        else:
            assert torch.equal(value, before[name]), name
    loaded = len(given) - 2
    load_backbone(built, given | {"bn1.num_batches_tracked": torch.tensor(5)}, "x")  # counters do no harm
    assert str(loaded) in report and "weights.pth" in report and "unused: 2" in report


@pytest.mark.parametrize("name", ["conv1.weight", "layer4.0.bn3.running_var", "layer2.0.downsample.0.weight"])
def test_a_backbone_that_lacks_a_tensor_is_refused(name):
    for change in ("missing", "shape"):
        given = torchvision_like()
        if change == "missing":
            del given[name]
        else:
            given[name] = torch.zeros(3)
        built = network()
        before = {k: v.clone() for k, v in built.state_dict().items()}
        with pytest.raises(ValueError) as raised:
            load_backbone(built, given, "weights.pth")
        assert "weights.pth" in str(raised.value) and name in str(raised.value)
        assert_unchanged(built, before)


def with_prefix(prefix: str, given: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{key}": value for key, value in given.items()}


def backbone_of(network: nn.Module) -> dict[str, Tensor]:
    """The very tensors of a network's backbone."""
    state = network.state_dict(keep_vars=True)
    return {
        k: v
        for k, v in state.items()
        if not k.startswith("layer5.") and not k.endswith("num_batches_tracked")
    }


def of_another_program(network: nn.Module, shortcut_first: bool) -> dict[str, Tensor]:
    """The backbone as a ResNet saves it that names its layers by their numbers."""
    found: dict[str, Tensor] = {}

    def put(name: str, conv: nn.Conv2d, norm: nn.Module) -> None:
        found[f"{name}.0.weight"] = conv.weight
        found.update(with_prefix(f"{name}.1.", norm.state_dict(keep_vars=True)))

    put("net.0", network.conv1, network.bn1)
    for number in range(1, 5):
        for index, block in enumerate(getattr(network, f"layer{number}")):
            name = f"net.{number}.blocks.{index}"
            parts = [(f"{name}.{i}", getattr(block, f"conv{i}"), getattr(block, f"bn{i}")) for i in (1, 2, 3)]
            if block.downsample is not None:
                parts.insert(0 if shortcut_first else 3, (f"{name}.shortcut", *block.downsample))
            for part in parts:
                put(*part)
    return found | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}


ACCEPTED = {
    "a prefix": (lambda: with_prefix("encoder.", torchvision_like()), r"\(keys encoder\.\*\)"),
    "shortcut first": (
        lambda: of_another_program(network(seed=1), True),
        r"net\.0\.0\.weight is conv1\.weight",
    ),
    "shortcut last": (lambda: of_another_program(network(seed=1), False), r"layer4\.0\.downsample\.1\.run"),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_keys_that_map_one_to_one_are_accepted_and_named(case):
    make, words = ACCEPTED[case]
    built, expected = network(), torchvision_like()
    report = load_backbone(built, make(), "weights.pth")
    assert [
        k for k in expected if not k.startswith("fc.") and not built.state_dict()[k].equal(expected[k])
    ] == []
    assert re.search(words, report) and "unused: 2" in report


@pytest.mark.parametrize("shortcut_first", [True, False])
def test_the_order_of_a_resnet101_leaves_no_choice(shortcut_first):
    """In its first block two convolutions have one shape; the order of the other blocks decides."""
    with torch.device("meta"):
        given = deeplabv2("resnet101", 19)
    state, _ = _renamed(backbone_of(given), of_another_program(given, shortcut_first), "x")
    own = backbone_of(given)
    assert len(own) > 500 and [key for key, value in own.items() if state[key] is not value] == []


def other(blocks: tuple[int, int, int, int], width: int = 16) -> DeepLabV2:
    return DeepLabV2(19, blocks, width, 64)


REFUSED = {
    "deeper, by our names": lambda: dict(other((1, 1, 3, 1)).state_dict()),
    "deeper, by other names": lambda: of_another_program(other((1, 1, 3, 1)), True),
    "wider": lambda: of_another_program(other((1, 1, 2, 1), 32), True),
    "another stem": lambda: {"net.9.weight": torch.zeros(8, 3, 3, 3)} | of_another_program(network(), True),
    "a layer among them": lambda: {"net.9.weight": torch.zeros(8, 3)} | of_another_program(network(), True),
    "two of them": lambda: with_prefix("a.", torchvision_like()) | with_prefix("b.", torchvision_like()),
}


@pytest.mark.parametrize("case", REFUSED)
def test_backbones_that_leave_a_choice_or_a_rest_are_refused(case):
    built = network()
    before = {k: v.clone() for k, v in built.state_dict().items()}
    with pytest.raises(ValueError, match=r"^weights\.pth: .*; (a plain ResNet-101|save one alone)"):
        load_backbone(built, REFUSED[case](), "weights.pth")
    assert_unchanged(built, before)


@pytest.mark.parametrize("backbone", ["mini", "resnet101"])
@pytest.mark.parametrize("num_classes", [19, 16, 13])
@pytest.mark.parametrize("norm", [False, True])
def test_the_shape_of_a_network_is_read_off_its_state(backbone, num_classes, norm):
    with torch.device("meta"):
        state = deeplabv2(backbone, num_classes, norm).state_dict()
    assert network_shape(state, "file") == (backbone, num_classes, norm)


def test_networks_of_another_kind_have_no_shape():
    with torch.device("meta"):
        larger = DeepLabV2(19, layers=(1, 1, 2, 2), width=16, feat_channels=64).state_dict()
    for state in (larger, {"weight": torch.zeros(3)}):
        with pytest.raises(ValueError, match=r"file\.pkl"):
            network_shape(state, "file.pkl")
