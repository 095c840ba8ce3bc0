"""The public module: against plain arithmetic, against the stage, its state, and what it refuses."""

from __future__ import annotations

import ast
import copy
import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import loss
from loss import ClassBalancedSelfLabeling, class_statistics
from tests.golden import cases, inputs
from utils.quirks import Quirks

B, K, D, H, W = 2, 5, 6, 4, 7
PRIOR = torch.tensor([0.4, 0.25, 0.2, 0.1, 0.05])


def maps(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(B, D, H, W, generator=generator), torch.randn(B, K, H, W, generator=generator)


def centroids() -> Tensor:
    return 3.0 * torch.randn(K, D, generator=torch.Generator().manual_seed(99))


def module(**changed) -> ClassBalancedSelfLabeling:
    sizes = {"pixels": 8, "queue_length": 24, "momentum": 0.9} | changed
    return ClassBalancedSelfLabeling(centroids(), PRIOR, **sizes)


def trained(ours: ClassBalancedSelfLabeling, seeds: range, optimizer: torch.optim.Optimizer) -> list[float]:
    """The losses of a step on each batch."""
    losses = []
    for seed in seeds:
        optimizer.zero_grad()
        value = ours(*maps(seed))
        value.backward()
        optimizer.step()
        ours.update_ema_()
        losses.append(float(value.detach()))
    return losses


def sgd(ours: ClassBalancedSelfLabeling) -> torch.optim.Optimizer:
    return torch.optim.SGD([ours.prototypes], lr=0.5, momentum=0.9)


# --- against other forms ------------------------------------------------------------------------------------


def test_two_iterations_equal_the_released_numbers():
    """Loss, prototypes and EMA prototypes, with an optimiser of our own beside the golden stage."""
    golden, stage = cases.STEPS["stage1_nocutmix"], cases.self_labeling_stage(Quirks())
    ours = ClassBalancedSelfLabeling(
        inputs.prototypes(), inputs.PRIOR, inputs.P, inputs.N, raw_queue_scores=True
    )
    rings = (ours.queues.features, ours.queues.labels, ours.queues.predictions)
    for ring, rows in zip(rings, inputs.full_queues(), strict=True):
        ring.enqueue_(rows)
    optimizer = torch.optim.SGD([ours.prototypes], lr=5e-4, momentum=0.9, weight_decay=2e-4)
    source, target = inputs.batches()
    outputs = []
    stage.ema.register_forward_hook(lambda _, __, output: outputs.append(output))
    for iteration in range(2):
        stage.step(source, target)
        feats, logits = map(first_pixels, outputs[-1])
        value = ours(feats, logits)
        assert float(value.detach()) == pytest.approx(golden["losses"][iteration][3], rel=1e-4)
        optimizer.zero_grad()
        optimizer.param_groups[0]["lr"] = 5e-4 * (1 - iteration / 90000) ** 0.9
        (0.1 * value).backward()
        optimizer.step()
        ours.update_ema_()
    for name, found in (("p", ours.prototypes), ("pe", ours.prototypes_ema)):
        total, norm = golden["prototypes"][name]
        assert float(found.detach().double().norm()) == pytest.approx(norm, rel=1e-6)
        assert float(found.detach().double().sum()) == pytest.approx(total, abs=1e-5 * norm)


def first_pixels(x: Tensor) -> Tensor:
    """The golden numbers sample the first P positions; of a grid of P positions all are sampled."""
    return x.flatten(2)[:, :, None, : inputs.P]


def test_rectified_labels_and_confidences_equal_plain_loops():
    ours, (feats, _) = module(ignore_index=77), maps(0)
    soft = torch.randn(B, K, H, W, generator=torch.Generator().manual_seed(4)).softmax(dim=1)
    found, confidence = ours.rectify_with_confidence(feats, soft, threshold=0.6)
    assert torch.equal(ours.rectify(feats, soft, threshold=0.6), found) and not confidence.requires_grad
    centres = centroids().double().numpy()
    expected, largest = np.empty((B, H, W), np.int64), np.empty((B, H, W))
    for b, y, x in np.ndindex(B, H, W):
        pixel = feats[b, :, y, x].double().numpy()
        cosine = centres @ pixel / np.linalg.norm(centres, axis=1) / np.linalg.norm(pixel)
        share = np.exp(cosine / 0.08) * soft[b, :, y, x].double().numpy()
        share /= share.sum()
        expected[b, y, x], largest[b, y, x] = share.argmax() if share.max() >= 0.6 else 77, share.max()
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(confidence, largest, rtol=1e-5)
    assert 0 < (expected == 77).sum() < expected.size


def test_features_are_resized_to_the_soft_label_with_aligned_corners():
    """On a ramp along x, whose bilinear values are known: corners keep theirs."""
    ours = ClassBalancedSelfLabeling(torch.eye(2), torch.tensor([0.5, 0.5]), 1, 4)
    ramp = torch.linspace(0.0, 1.0, 3).expand(1, 1, 2, 3)
    feats = torch.cat([1.0 - ramp, ramp], dim=1)  # class 0 on the left, class 1 on the right
    soft = torch.tensor([0.501, 0.499]).view(1, 2, 1, 1).expand(1, 2, 4, 5)  # tips the balance in the middle
    assert torch.equal(ours.rectify(feats, soft), torch.tensor([0, 0, 0, 1, 1]).expand(1, 4, 5))


def test_ema_prototypes_follow_by_the_momentum():
    ours = module(momentum=0.75)
    before = ours.prototypes_ema.clone()
    ours.prototypes.data.add_(1.0)
    ours.update_ema_()
    torch.testing.assert_close(ours.prototypes_ema, before + 0.25)


def test_statistics_equal_plain_loops():
    feats, logits = maps(3)
    sums, mass = np.zeros((K, D)), np.zeros(K)
    for b, y, x in np.ndindex(B, H, W):
        scores = np.exp(logits[b, :, y, x].double().numpy())
        pixel = feats[b, :, y, x].double().numpy()
        sums += np.outer(scores / scores.sum(), pixel / np.linalg.norm(pixel))
        mass += scores / scores.sum()
    found, prior = class_statistics(feats, logits)
    expected = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(prior.numpy(), mass / (B * H * W), atol=1e-6)
    ClassBalancedSelfLabeling(found, prior)  # they fit


# --- what a loop relies on ----------------------------------------------------------------------------------


def test_equal_seeds_give_equal_losses_and_others_do_not():
    """No draw touches the global generator."""
    before = torch.get_rng_state()
    losses = [trained(ours, range(5), sgd(ours)) for ours in (module(), module(), module(seed=1))]
    assert torch.equal(torch.get_rng_state(), before)
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_a_saved_module_goes_on_as_if_never_stopped():
    """Also from another seed and other centroids, which are forgotten. Queues fill in the second step."""
    whole, first = module(), module()
    expected = trained(whole, range(6), sgd(whole))
    optimizer = sgd(first)
    begun = trained(first, range(3), optimizer)
    file = io.BytesIO()
    torch.save({"module": first.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    other = ClassBalancedSelfLabeling(-centroids(), PRIOR.flip(0), 8, 24, momentum=0.9, seed=3)
    other.load_state_dict(state["module"])
    continued = sgd(other)
    continued.load_state_dict(state["optimizer"])
    assert begun + trained(other, range(3, 6), continued) == expected
    for name, value in whole.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_a_copy_draws_and_learns_for_itself():
    ours = module()
    trained(ours, range(2), sgd(ours))
    copied = copy.deepcopy(ours)
    first = trained(ours, range(2, 4), sgd(ours))
    assert trained(copied, range(2, 4), sgd(copied)) == first


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_half_precision_inputs_change_no_number(dtype):
    feats, logits = (x.to(dtype) for x in maps(0))
    ours, plain = module(), module()
    soft = logits.softmax(dim=1)
    with torch.autocast("cpu", dtype=dtype):
        found, labels = ours(feats, logits), ours.rectify(feats, soft)
        start = class_statistics(feats, logits)
    assert torch.equal(found, plain(feats.float(), logits.float()))
    assert torch.equal(labels, plain.rectify(feats.float(), soft.float()))
    assert torch.equal(start[0], class_statistics(feats.float(), logits.float())[0])


def test_labels_enter_the_queue_with_their_pixels():
    """The feature of every position names it, and so does its label."""
    ours = ClassBalancedSelfLabeling(torch.eye(K, 2).add(1), PRIOR, 8, 16)
    labels = torch.arange(B * H * W).view(B, H, W)
    angles = labels / 100
    feats = torch.stack([angles.cos(), angles.sin()], dim=1)
    ours(feats, torch.randn(B, K, H, W, generator=torch.Generator().manual_seed(0)), labels)
    rows, kept = ours.queues.features.rows, ours.queues.labels.rows[:, 0]
    torch.testing.assert_close(torch.atan2(rows[:, 1], rows[:, 0]) * 100, kept, atol=1e-3, rtol=0)
    assert len(set(kept.tolist())) == 16


def test_without_labels_the_largest_logit_enters_the_queue():
    with_labels, without, (feats, logits) = module(), module(), maps(1)
    with_labels(feats, logits, logits.argmax(dim=1))
    without(feats, logits)
    assert torch.equal(with_labels.queues.labels.rows, without.queues.labels.rows)
    assert without.queues.labels.rows.any()


def test_a_prior_may_be_replaced():
    """As if it had been the first; what the module was given is left alone."""
    shares, given = PRIOR.flip(0).clone(), PRIOR.clone()
    ours = module()
    ours.prior.copy_(shares)
    other = ClassBalancedSelfLabeling(centroids(), shares, 8, 24, momentum=0.9)
    losses = [trained(part, range(3), sgd(part)) for part in (ours, other, module())]
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(PRIOR, given)


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"centroids": torch.ones(K)}, r"centroids \(5,\): expected \(K, D\)"),
        ({"centroids": torch.eye(K, D).index_fill(0, torch.tensor(2), 0.0)}, "a row is 0"),
        ({"centroids": torch.full((K, D), torch.nan)}, "not finite"),
        ({"prior": torch.ones(K + 1) / (K + 1)}, r"prior \(6,\): expected \(K,\) with K = 5"),
        ({"prior": torch.tensor([0.5, 0.5, 0.0, 0.0, 0.0])}, "positive"),
        ({"prior": torch.ones(K)}, "sum 1"),
        ({"prior": torch.full((K,), torch.nan)}, "positive"),
        ({"pixels": 0}, "pixels 0"),
        ({"pixels": 17, "queue_length": 16}, "1 to queue_length, which is 16"),
        ({"temperature": 0.0}, "temperature 0.0"),
        ({"epsilon": -1.0}, "epsilon -1.0"),
        ({"momentum": 1.5}, "momentum 1.5"),
    ],
)
def test_a_start_that_cannot_work_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        ClassBalancedSelfLabeling(**{"centroids": centroids(), "prior": PRIOR} | changed)


def test_shapes_that_do_not_fit_are_refused():
    ours, (feats, logits) = module(), maps(0)
    wrong = [
        ((feats[:, 1:], logits), r"feats \(2, 5, 4, 7\): expected \(B, 6, h, w\)"),
        ((feats[0], logits), r"feats \(6, 4, 7\): expected"),
        ((feats, logits[:, :4]), r"logits \(2, 4, 4, 7\): expected \(B, 5, h, w\)"),
        ((feats, F.interpolate(logits, scale_factor=2)), "differ in grid or images; both come from"),
        ((feats, logits[:1]), "differ in grid or images"),
        ((feats, logits, torch.zeros(B, H, W + 1)), "resize the labels to the grid"),
        ((feats[..., :1], logits[..., :1]), "4 positions has no 8 pixels to sample; lower `pixels`"),
    ]
    state = {name: value.clone() for name, value in ours.state_dict().items()}
    for arguments, message in wrong:
        with pytest.raises(ValueError, match=message):
            ours(*arguments)
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in state.items())
    with pytest.raises(ValueError, match=r"soft_label \(2, 4, 4, 7\): expected .* K = 5"):
        ours.rectify(feats, logits[:, :4])
    with pytest.raises(ValueError, match="feats"):
        ours.rectify(feats[:, 1:], logits)
    with pytest.raises(ValueError, match="differ in grid"):
        class_statistics(feats, logits[..., 1:])


def test_a_state_of_other_sizes_is_refused():
    with pytest.raises(RuntimeError, match="size mismatch"):
        module().load_state_dict(module(queue_length=25).state_dict())


def test_loss_imports_nothing_else_of_the_project():
    folder = Path(loss.__file__).parent
    allowed = set(sys.stdlib_module_names) | {"torch", "loss"}
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert {name.split(".")[0] for name in names} <= allowed, path.name
