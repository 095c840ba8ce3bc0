"""Two iterations of each stage against the numbers of the released implementation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models import DeepLabV2, FCDiscriminator
from stages.distillation import DistillationSettings, DistillationStage
from stages.self_labeling import SelfLabelingSettings, SelfLabelingStage
from stages.stage import BatchDraws, OptimisationSettings, Stage
from stages.warm_up import WarmUpStage
from tests.golden import inputs
from utils.quirks import Quirks

STEPS = json.loads((Path(__file__).parents[1] / "golden" / "steps.json").read_text())


class FixedDraws(BatchDraws):
    """The first pixels in row-major order and a given CutMix box."""

    def __init__(self, box: tuple[int, int, int, int] | None):
        super().__init__(0)
        self.box = box

    def cutmix_box(self, height: int, width: int) -> tuple[int, int, int, int] | None:
        return self.box

    def pixels(self, images: int, positions: int, count: int) -> Tensor:
        return torch.arange(count).expand(images, -1)


def small_network(salt: str = "") -> DeepLabV2:
    network = DeepLabV2(inputs.K, layers=inputs.LAYERS)
    inputs.fill(network.state_dict(), salt)
    for module in network.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    return network


def two_steps(stage: Stage) -> list[dict[str, float]]:
    source, target = inputs.batches()
    return [{k: float(v) for k, v in stage.step(source, target).items()} for _ in range(2)]


def assert_losses(rows: list[dict[str, float]], names: list[str], golden: list[list[float]]) -> None:
    for row, expected in zip(rows, golden, strict=True):
        assert [row[n] for n in names] == pytest.approx(expected, rel=1e-4, abs=1e-6)


def assert_tensors(state: dict[str, Tensor], golden: dict[str, list[float]]) -> None:
    """[sum, L2 norm] of each; a sum may cancel, so its tolerance is relative to the norm."""
    for key, (total, norm) in golden.items():
        value = state[key].detach().double()
        assert float(value.norm()) == pytest.approx(norm, rel=1e-4), key
        assert float(value.sum()) == pytest.approx(total, rel=1e-4, abs=1e-4 * norm), key


@pytest.mark.parametrize(("case", "box"), [("stage1_nocutmix", None), ("stage1_cutmix", (10, 34, 12, 50))])
def test_stage1(case: str, box: tuple[int, int, int, int] | None) -> None:
    stage = SelfLabelingStage(
        small_network(),
        inputs.prototypes(),
        inputs.PRIOR,
        OptimisationSettings(1e-4, 5.0, 90000),
        SelfLabelingSettings(consistency_weight=5.0, symmetric=True, pixels=inputs.P, queue_length=inputs.N),
        Quirks(),
        FixedDraws(box),
    )
    queues = stage.self_labeling
    for queue, rows in zip(
        (queues.features, queues.labels, queues.predictions), inputs.full_queues(), strict=True
    ):
        queue.fill_(rows)
    golden = STEPS[case]
    assert_losses(two_steps(stage), ["total", "CTS", "consist", "SL", "contrast"], golden["losses"])
    assert_tensors(stage.student.state_dict(), golden["student"])
    assert_tensors(stage.ema.state_dict(), golden["ema"])
    assert_tensors({"p": stage.prototypes, "pe": stage.prototypes_ema}, golden["prototypes"])
    rows = {"q": queues.features.rows, "ql": queues.labels.rows, "qo": queues.predictions.rows}
    assert_tensors(rows, golden["queue"])
    first = float(queues.features.newest_first()[0].sum())
    assert first == pytest.approx(golden["queue_first_row_sum"], abs=1e-4)
    assert list(stage.learning_rates().values()) == pytest.approx(golden["lr"], rel=1e-6)


def test_distillation() -> None:
    stage = DistillationStage(
        small_network(),
        small_network("teacher."),
        OptimisationSettings(6e-4, 10.0, 90000),
        DistillationSettings(distillation_weight=1.0),
        Quirks(),
    )
    golden = STEPS["distill"]
    assert_losses(two_steps(stage), ["source", "total"], golden["losses"])
    assert_tensors(stage.student.state_dict(), golden["student"])
    assert list(stage.learning_rates().values()) == pytest.approx(golden["lr"], rel=1e-6)


def test_warm_up() -> None:
    discriminator = FCDiscriminator(inputs.K)
    inputs.fill(discriminator.state_dict(), "disc.")
    settings = OptimisationSettings(2.5e-4, 10.0, 90000)
    stage = WarmUpStage(small_network(), discriminator, settings, Quirks())
    golden = STEPS["warm_up"]
    assert_losses(two_steps(stage), ["source", "adversarial", "discriminator"], golden["losses"])
    assert_tensors(stage.student.state_dict(), golden["student"])
    assert_tensors(stage.discriminator.state_dict(), golden["disc"])
    assert stage.disc_optimizer.param_groups[0]["lr"] == pytest.approx(golden["lr"][0][0], rel=1e-6)
    assert list(stage.learning_rates().values()) == pytest.approx(golden["lr"][1], rel=1e-6)
