"""Which file fills which tensors, and what is said when it does not fit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models import DeepLabV2, deeplabv2
from models.weights import load_backbone, load_network, network_shape


def network(n_class: int = 19, norm: bool = False, seed: int = 0) -> DeepLabV2:
    torch.manual_seed(seed)
    return deeplabv2("mini", n_class, pretrain_norm=norm)


def state(**options) -> dict[str, Tensor]:
    return dict(network(seed=1, **options).state_dict())


def assert_unchanged(built: nn.Module, before: dict[str, Tensor]) -> None:
    for name, value in built.state_dict().items():
        assert torch.equal(value, before[name]), name


def refused(built: DeepLabV2, given: dict[str, Tensor]) -> str:
    before = {k: v.clone() for k, v in built.state_dict().items()}
    with pytest.raises(ValueError) as raised:
        load_network(built, given, "some/file.pkl")
    assert_unchanged(built, before)
    message = str(raised.value)
    assert message.startswith("some/file.pkl") and "\n" not in message
    return message


def test_a_fitting_state_fills_everything():
    built, given = network(), state()
    assert not torch.equal(built.conv1.weight, given["conv1.weight"])
    load_network(built, given, "x")
    assert_unchanged(built, given)


def test_a_missing_tensor_is_named():
    given = state()
    del given["layer3.1.conv2.weight"]
    assert "layer3.1.conv2.weight" in refused(network(), given)


def test_an_unknown_tensor_is_named():
    assert "layer9.weight" in refused(network(), state() | {"layer9.weight": torch.zeros(1)})


def test_a_tensor_of_another_shape_is_named():
    assert "conv1.weight" in refused(network(), state() | {"conv1.weight": torch.zeros(16, 3, 3, 3)})


def test_another_number_of_classes_names_the_option():
    message = refused(network(19), state(n_class=16))
    assert "--n_class 16" in message and "19" in message


def test_bn_pretrain_in_the_file_only_names_the_options():
    message = refused(network(), state(norm=True))
    assert "--bn_clr" in message and "--ema_bn" in message and "add" in message


def test_bn_pretrain_in_the_network_only_names_the_options():
    message = refused(network(norm=True), state())
    assert "--bn_clr" in message and "--ema_bn" in message and "leave out" in message


def test_bn_pretrain_and_classes_at_once_are_still_refused():
    refused(network(19), state(n_class=16, norm=True))


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
    assert str(loaded) in report and "weights.pth" in report and "unused: 2" in report


def test_counters_in_the_backbones_file_do_no_harm():
    given = torchvision_like() | {"bn1.num_batches_tracked": torch.tensor(5)}
    load_backbone(network(), given, "weights.pth")


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
