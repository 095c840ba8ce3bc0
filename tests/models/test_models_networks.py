"""Shapes, frozen norms, the EMA model and the discriminator."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from models import DeepLabV2, FCDiscriminator, deeplabv2, ema_copy, ema_update_, freeze_batch_norm


@pytest.fixture
def mini() -> DeepLabV2:
    torch.manual_seed(0)
    return deeplabv2("mini", 19)


@pytest.mark.parametrize(("size", "n_class"), [((64, 96), 19), ((65, 97), 16), ((40, 72), 13)])
def test_shapes_of_features_and_logits(size, n_class):
    """/2, then a pooling that rounds up (ceil mode), then /2 rounding up."""

    def grid(n: int) -> int:
        stem = (n + 1) // 2
        pooled = math.ceil((stem + 2 - 3) / 2) + 1
        return (pooled + 1) // 2

    assert (grid(512), grid(896)) == (65, 113)  # of the paper's crop
    with torch.inference_mode():
        feats, logits = deeplabv2("mini", n_class).eval()(torch.zeros(1, 3, *size))
    assert logits.shape == (1, n_class, grid(size[0]), grid(size[1]))
    assert feats.shape == (1, 64, *logits.shape[2:])


def test_logits_are_the_last_convolution_of_the_features_after_dropout(mini):
    image = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    mini.train()
    torch.manual_seed(0)
    feats, logits = mini(image)
    expected = torch.einsum("bdhw,kd->bkhw", feats, mini.layer5.head[1].weight[:, :, 0, 0])
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    dropped = (feats == 0).all(dim=3).all(dim=2)  # whole channels, one of ten
    assert 1 <= int(dropped.sum()) < 40


def test_bn_pretrain_is_there_when_asked_for():
    without, with_norm = deeplabv2("mini", 19), deeplabv2("mini", 19, pretrain_norm=True)
    extra = with_norm.state_dict().keys() - without.state_dict().keys()
    entries = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert extra == {f"bn_pretrain.{entry}" for entry in entries}
    assert without.state_dict().keys() <= with_norm.state_dict().keys()
    assert with_norm.bn_pretrain.num_features == 512


def test_bn_pretrain_acts_before_the_head_without_relu():
    network = deeplabv2("mini", 19, pretrain_norm=True).eval()
    seen = {}
    network.layer4.register_forward_hook(lambda _m, _i, out: seen.update(before=out))
    network.layer5.register_forward_pre_hook(lambda _m, given: seen.update(after=given[0]))
    nn.init.constant_(network.bn_pretrain.weight, -2.0)
    nn.init.constant_(network.bn_pretrain.bias, -3.0)
    with torch.inference_mode():
        network(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    expected = seen["before"] / math.sqrt(1 + 1e-5) * -2 - 3
    torch.testing.assert_close(seen["after"], expected)
    assert (seen["after"] < 0).all()


def test_initialisation(mini):
    """Every convolution N(0, 0.01), norms 1 and 0, the bottleneck's bias 0, other biases not."""
    weights = torch.cat([m.weight.detach().flatten() for m in mini.modules() if isinstance(m, nn.Conv2d)])
    assert float(weights.mean()) == pytest.approx(0, abs=1e-4)
    assert float(weights.std()) == pytest.approx(0.01, rel=0.02)
    assert float(mini.layer5.head[1].weight.detach().std()) == pytest.approx(0.01, rel=0.1)
    for module in mini.modules():
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            assert (module.weight == 1).all() and (module.bias == 0).all()
    assert (mini.layer5.bottleneck[1].bias == 0).all()
    assert all(branch[0].bias.any() for branch in mini.layer5.conv2d_list)


def test_frozen_norms_keep_their_statistics_and_get_no_gradient():
    """The rest of the network trains on."""
    network = deeplabv2("mini", 19, pretrain_norm=True).train()
    freeze_batch_norm(network)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) > 15 and network.bn_pretrain in norms and network.training
    before = copy.deepcopy(network.state_dict())
    network(torch.rand(2, 3, 32, 32)).logits.sum().backward()
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    for norm in norms:
        assert not norm.training and not norm.weight.requires_grad and not norm.bias.requires_grad
    for module in network.modules():
        if isinstance(module, nn.GroupNorm | nn.Conv2d):
            assert module.training and module.weight.grad is not None


def test_ema_copy_is_equal_separate_and_without_gradients(mini):
    teacher = ema_copy(mini)
    for (name, mine), theirs in zip(teacher.state_dict().items(), mini.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name
        assert mine.data_ptr() != theirs.data_ptr() or mine.numel() == 0, name
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(p.requires_grad for p in mini.parameters())


@pytest.mark.parametrize("buffers", [None, True])
@pytest.mark.parametrize("momentum", [None, 0.5, 0.0])
def test_ema_update_moves_parameters_and_copies_or_averages_buffers(mini, momentum, buffers):
    """By default as in the released code; frozen parameters of the student are averaged, too."""
    teacher, generator = ema_copy(mini), torch.Generator().manual_seed(3)
    for value in mini.state_dict().values():
        if value.is_floating_point():
            value.add_(torch.rand(value.shape, generator=generator))
        else:
            value.fill_(7)
    old = copy.deepcopy(teacher.state_dict())
    freeze_batch_norm(mini)
    given = {"momentum": momentum, "average_buffers": buffers}
    ema_update_(teacher, mini, **{name: value for name, value in given.items() if value is not None})
    momentum = 0.999 if momentum is None else momentum
    student, parameters = mini.state_dict(), dict(mini.named_parameters())
    assert any("running_mean" in name for name in student) and not any(
        "running" in name for name in parameters
    )
    for name, value in teacher.state_dict().items():
        if name in parameters or (buffers and value.is_floating_point()):
            expected = momentum * old[name].double() + (1 - momentum) * student[name].double()
            torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-6)
        else:
            assert torch.equal(value, student[name]), name


@pytest.mark.parametrize(
    ("size", "scores"), [((64, 128), (4, 8)), ((65, 113), (5, 8)), ((512, 896), (32, 56))]
)
def test_discriminator_scores_a_sixteenth_of_the_map(size, scores):
    with torch.inference_mode():
        out = FCDiscriminator(19, width=4)(torch.zeros(2, 19, *size))
    assert out.shape == (2, 1, *scores)


def test_discriminator_tensors():
    expected = {
        "conv1.weight": (64, 16, 3, 3),
        "conv1.bias": (64,),
        "conv2.weight": (128, 64, 3, 3),
        "conv2.bias": (128,),
        "conv3.weight": (256, 128, 3, 3),
        "conv3.bias": (256,),
        "conv4.weight": (512, 256, 3, 3),
        "conv4.bias": (512,),
        "classifier.weight": (1, 512, 1, 1),
        "classifier.bias": (1,),
    }
    assert {k: tuple(v.shape) for k, v in FCDiscriminator(16).state_dict().items()} == expected


def test_only_the_fourth_layer_of_the_discriminator_leaks():
    """Biases alone decide on a map of zeros: a negative one dies after conv1, and is a fifth after conv4."""
    network = FCDiscriminator(3, width=2)
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    nn.init.constant_(network.conv4.bias, -1.0)
    nn.init.ones_(network.classifier.weight)
    with torch.inference_mode():
        assert float(network(torch.zeros(1, 3, 16, 16))) == pytest.approx(-0.2 * 16)
        for layer in (network.conv1, network.conv2, network.conv3):
            nn.init.constant_(layer.bias, -1.0)
        nn.init.ones_(network.conv2.weight)
        nn.init.ones_(network.conv3.weight)
        nn.init.ones_(network.conv4.weight)
        assert float(network(torch.zeros(1, 3, 16, 16))) == pytest.approx(-0.2 * 16)
