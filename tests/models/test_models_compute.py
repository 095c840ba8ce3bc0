"""Ways of computing change how a network is computed, not what."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models import Compute, DeepLabV2, deeplabv2, ema_copy, freeze_batch_norm
from tests.golden import inputs

COMPILING = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it compiles


def network(frozen: bool = False, dtype: torch.dtype = torch.float64) -> DeepLabV2:
    """Small, filled from names, in train mode without dropout, a batch norm before the head."""
    net = DeepLabV2(5, (2, 1, 2, 1), 8, 32, pretrain_norm=True).to(dtype)
    inputs.fill(net.state_dict())
    for module in net.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    if frozen:
        freeze_batch_norm(net)
    return net


def passed(compute: Compute, net: nn.Module) -> dict[str, Tensor]:
    """Outputs, gradients and buffers of two forward and backward passes."""
    compute.prepare(net)
    dtype = next(net.parameters()).dtype
    for i in range(2):
        feats, logits = compute(net, inputs.uniform(f"x{i}", 2, 3, 48, 64).to(dtype))
        (logits.square().mean() + feats.mean()).backward()
    found = {"feats": feats.detach(), "logits": logits.detach()}
    found |= {f"gradient {k}": p.grad for k, p in net.named_parameters() if p.grad is not None}
    return found | dict(net.named_buffers())


@pytest.mark.parametrize("frozen", [False, True])
def test_recomputing_gives_the_same_gradients_and_statistics(frozen):
    plain, again = (passed(Compute(recompute=r), network(frozen)) for r in (False, True))
    assert plain.keys() == again.keys()
    for name, value in plain.items():
        assert torch.equal(value, again[name]), name
    counts = [value for name, value in plain.items() if name.endswith("num_batches_tracked")]
    assert {int(count) for count in counts} == {0 if frozen else 2}


def saved_bytes(net: nn.Module, recompute: bool) -> int:
    """Bytes that are stored for the backward pass, each memory once."""
    kept: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in net.parameters()}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    compute = Compute(recompute=recompute)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        output = compute(compute.prepare(net), inputs.uniform("x", 2, 3, 48, 64).double())
    assert output.logits.requires_grad
    return sum(kept.values())


def test_recomputing_keeps_less():
    assert saved_bytes(network(), True) < 0.6 * saved_bytes(network(), False)


def test_channels_last_gives_the_same_numbers():
    plain, other = (passed(Compute(channels_last=c), network()) for c in (False, True))
    for name, value in plain.items():
        torch.testing.assert_close(other[name], value, rtol=1e-9, atol=1e-11, msg=name)


def test_bf16_is_near_and_what_leaves_the_network_is_float32():
    plain, other = (passed(Compute(dtype), network(dtype=torch.float32)) for dtype in (None, torch.bfloat16))
    for name in ("feats", "logits"):
        assert other[name].dtype == torch.float32
        error = float((other[name] - plain[name]).norm() / plain[name].norm())
        assert 0 < error < 0.2, name  # of a small random network, whose batch norms see few pixels
    assert all(value.dtype == plain[name].dtype for name, value in other.items())


def test_the_classifier_stays_in_float32_under_bf16():
    net, x = network(dtype=torch.float32).eval(), inputs.uniform("x", 2, 3, 48, 64)
    given = {}
    net.layer5.head[1].register_forward_hook(lambda layer, x, out: given.update(feats=x[0], logits=out))
    logits = Compute(torch.bfloat16)(net, x).logits
    assert given["feats"].dtype == given["logits"].dtype == torch.float32
    exact = torch.einsum(
        "bdhw,kd->bkhw", given["feats"].double(), net.layer5.head[1].weight[:, :, 0, 0].double()
    )
    torch.testing.assert_close(logits.double(), exact, rtol=1e-5, atol=1e-5)


@COMPILING
def test_names_stay_as_they_are():
    net = network()
    names = list(net.state_dict())
    Compute(torch.bfloat16, channels_last=True, compiled=True, recompute=True).prepare(net)
    assert list(net.state_dict()) == names
    assert list(ema_copy(net).state_dict()) == names


@COMPILING
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["student", "EMA model", "teacher"])
def test_compiling_sees_one_graph(kind, dtype):
    """The student with its dropout drawn, an EMA model in train mode (Q2), a teacher in eval mode."""
    torch._dynamo.reset()
    net = deeplabv2("mini", 5, pretrain_norm=True).train(kind != "teacher")
    net = net if kind == "student" else ema_copy(net)
    dropout = None if kind == "teacher" else net.dropout_factors(torch.rand(2, net.feat_channels))
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        found = torch._dynamo.explain(net)(torch.rand(2, 3, 48, 64), dropout)
    assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons


@COMPILING
@pytest.mark.slow
def test_compiled_gives_the_same_numbers():
    """In float64, where rounding turns no ReLU on or off."""
    plain, other = (passed(Compute(compiled=c), network()) for c in (False, True))
    for name, value in plain.items():
        torch.testing.assert_close(other[name], value, rtol=1e-8, atol=1e-10, msg=name)
