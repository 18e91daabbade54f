"""What every optimizer must do; a new file in training/optim is tested because it exists."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from training.optim import AUXILIARY, Optimizer, build_optimizer
from training.plugins import load_plugin, plugin_names

RATE = 0.01


def variants() -> list[tuple[str, dict[str, object]]]:
    """Return every optimizer as it comes, and with each other value of each of its switches."""
    found: list[tuple[str, dict[str, object]]] = []
    for name in plugin_names("training.optim"):
        found.append((name, {}))
        for option, field in load_plugin("training.optim", name).Options.model_fields.items():
            values = (True, False) if field.annotation is bool else get_args(field.annotation)
            found += [(name, {option: v}) for v in values if v != field.default and isinstance(v, bool | str)]
    return found


class TwoTasks(nn.Module):
    """A table that all tasks share, a layer, a tower a task, and a head that only the auxiliary loss reads."""

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(7)
        self.table = nn.Embedding(11, 4)
        self.shared = nn.Linear(4, 8)
        self.towers = nn.ModuleDict({"click": nn.Linear(8, 1), "buy": nn.Linear(8, 1)})
        self.head = nn.Linear(4, 1)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.3)
        self.ids = torch.randint(0, 10, (64,), generator=random)  # row 10 is never read
        self.labels = (torch.rand(64, 2, generator=random) < 0.4).to(torch.float32)

    def losses(self) -> dict[str, Tensor]:
        embedding = self.table(self.ids)
        hidden = torch.relu(self.shared(embedding))
        out = {
            task: nn.functional.binary_cross_entropy_with_logits(tower(hidden)[:, 0], self.labels[:, i])
            for i, (task, tower) in enumerate(self.towers.items())
        }
        out[AUXILIARY] = 0.1 * self.head(embedding).square().mean()
        return out

    def total(self) -> float:
        with torch.no_grad():
            return sum(loss.item() for loss in self.losses().values())

    def state(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.named_parameters()}


@pytest.fixture
def model() -> TwoTasks:
    return TwoTasks()


@pytest.fixture(params=variants(), ids=str)
def chosen(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    name, options = request.param
    return name, options


def optimizer_of(chosen: tuple[str, dict[str, object]], model: TwoTasks) -> Optimizer:
    name, options = chosen
    return build_optimizer(
        name,
        options,
        embeddings=[model.table.weight],
        dense=[p for n, p in model.named_parameters() if not n.startswith("table")],
        embedding_learning_rate=RATE,
        dense_learning_rate=RATE,
    )


def test_losses_fall(chosen: tuple[str, dict[str, object]], model: TwoTasks) -> None:
    optimizer = optimizer_of(chosen, model)
    before = model.total()
    for _ in range(30):
        optimizer.step(model.losses(), rate_ratio=1.0)
    assert model.total() < before


def test_everything_read_moves_and_nothing_else(
    chosen: tuple[str, dict[str, object]], model: TwoTasks
) -> None:
    before = model.state()
    optimizer = optimizer_of(chosen, model)
    optimizer.step(model.losses(), rate_ratio=1.0)
    for name, parameter in model.named_parameters():
        assert bool(torch.isfinite(parameter).all()), name
        assert not torch.equal(parameter, before[name]), name
    assert torch.equal(model.table.weight[10], before["table.weight"][10])


def test_no_gradient_is_left(chosen: tuple[str, dict[str, object]], model: TwoTasks) -> None:
    optimizer = optimizer_of(chosen, model)
    optimizer.step(model.losses(), rate_ratio=1.0)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_gradients_from_before_do_not_count(chosen: tuple[str, dict[str, object]], model: TwoTasks) -> None:
    clean = TwoTasks()
    optimizer_of(chosen, clean).step(clean.losses(), rate_ratio=1.0)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 100.0)
    optimizer_of(chosen, model).step(model.losses(), rate_ratio=1.0)
    assert all(torch.equal(clean.state()[name], value) for name, value in model.state().items())


def test_a_ratio_of_zero_moves_nothing_and_half_of_it_half(
    chosen: tuple[str, dict[str, object]], model: TwoTasks
) -> None:
    before = model.state()
    optimizer_of(chosen, model).step(model.losses(), rate_ratio=0.0)
    assert all(torch.equal(value, before[name]) for name, value in model.state().items())
    full, half = TwoTasks(), TwoTasks()
    optimizer_of(chosen, full).step(full.losses(), rate_ratio=1.0)
    optimizer_of(chosen, half).step(half.losses(), rate_ratio=0.5)
    for name, start in before.items():
        torch.testing.assert_close(
            half.state()[name] - start, (full.state()[name] - start) / 2, atol=1e-6, rtol=1e-4
        )


def test_a_batch_in_which_a_task_is_absent_trains_the_others(
    chosen: tuple[str, dict[str, object]], model: TwoTasks
) -> None:
    optimizer = optimizer_of(chosen, model)
    before = model.state()
    losses = model.losses()
    optimizer.step({"click": losses["click"]}, rate_ratio=1.0)
    after = model.state()
    assert torch.equal(after["towers.buy.weight"], before["towers.buy.weight"])
    assert torch.equal(after["head.weight"], before["head.weight"])
    assert not torch.equal(after["towers.click.weight"], before["towers.click.weight"])


def test_no_loss_at_all_moves_nothing(chosen: tuple[str, dict[str, object]], model: TwoTasks) -> None:
    optimizer = optimizer_of(chosen, model)
    optimizer.step(model.losses(), rate_ratio=1.0)
    before = model.state()
    optimizer.step({}, rate_ratio=1.0)
    optimizer.step({"click": torch.tensor(0.0)}, rate_ratio=1.0)
    assert all(torch.equal(value, before[name]) for name, value in model.state().items())


def test_the_auxiliary_loss_alone_is_a_loss(chosen: tuple[str, dict[str, object]], model: TwoTasks) -> None:
    optimizer = optimizer_of(chosen, model)
    before = model.state()
    optimizer.step({AUXILIARY: model.losses()[AUXILIARY]}, rate_ratio=1.0)
    assert not torch.equal(model.head.weight, before["head.weight"])
    assert torch.equal(model.shared.weight, before["shared.weight"])


def test_only_tables_or_only_layers_may_be_trained(chosen: tuple[str, dict[str, object]]) -> None:
    name, options = chosen
    for kind in ("embeddings", "dense"):
        parameter = nn.Parameter(torch.ones(3, 2))
        given = {"embeddings": [], "dense": [], kind: [parameter]}
        optimizer = build_optimizer(
            name, options, **given, embedding_learning_rate=RATE, dense_learning_rate=RATE
        )
        optimizer.step({"click": parameter.sum()}, rate_ratio=1.0)
        assert bool((parameter < 1).all())


def test_options_are_frozen_and_refuse_what_they_do_not_know() -> None:
    for name in plugin_names("training.optim"):
        config = load_plugin("training.optim", name).Options.model_config
        assert config["extra"] == "forbid" and config["frozen"], name
