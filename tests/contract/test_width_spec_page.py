"""The page on the width spec shows what the command prints, and the messages that users get."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from slimfleet import cli
from slimmable.derivation.errors import DerivationError
from slimmable.from_module import slimmable_from_module
from slimmable.model import ModelInput
from slimmable.task import Task, TaskKind

pytestmark = pytest.mark.torch

PAGE = (Path(__file__).parents[2] / "docs" / "width-spec.md").read_text(encoding="utf-8")
HERE = Path(__file__).name


class Network(nn.Module):
    """Two linear layers; the cases below change one thing each."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.second = nn.Linear(8, 4)

    def forward(self, x):
        return self.second(self.first(x))


class Branching(Network):
    def forward(self, x):
        if x.sum() > 0:
            x = -x
        return super().forward(x)


class Masking(Network):
    def forward(self, x):
        hidden = self.first(x)
        return self.second(hidden[hidden[:, 0] > 0])


class OneBatch(Network):
    def forward(self, x):
        return self.second(self.first(x).view(2, 8))


class LeavingTorch(Network):
    def forward(self, x):
        return self.second(torch.from_numpy(self.first(x).detach().numpy()))


class Dictionary(Network):
    def forward(self, x):
        return {"scores": super().forward(x)}


class WithoutBatch(Network):
    def forward(self, x):
        return super().forward(x).mean(0)


class Auxiliary(Network):
    def forward(self, x):
        hidden = self.first(x)
        return (self.second(hidden), hidden) if self.training else self.second(hidden)


class Random(Network):
    def forward(self, x):
        return super().forward(x) + torch.randn(4)


class Lazy(Network):
    def __init__(self):
        super().__init__()
        self.first = nn.LazyLinear(8)


class OwnNorm(Network):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean_of_all", torch.zeros(8))
        self.register_buffer("variance_of_all", torch.ones(8))

    def forward(self, x):
        statistics = self.mean_of_all, self.variance_of_all
        hidden = nn.functional.batch_norm(self.first(x), *statistics, training=self.training)
        return self.second(hidden)


REFUSED = {
    "branches on values": (Branching, 4),
    "lets values decide a shape, as a mask as index does": (Masking, 4),
    "has the batch size written into it": (OneBatch, 4),
    "takes another shape": (Network, 5),
    "leaves PyTorch on the way, or packs sequences": (LeavingTorch, 4),
    "returns a dictionary": (Dictionary, 4),
    "returns something without the batch in front": (WithoutBatch, 4),
    "returns something else in training": (Auxiliary, 4),
    "gives random outputs in evaluation": (Random, 4),
    "is wrapped": (lambda: nn.DataParallel(Network()), 4),
    "has lazy layers": (Lazy, 4),
    "is not in float32": (lambda: Network().half(), 4),
    "normalises with buffers of its own": (OwnNorm, 4),
}


def refusals():
    section = PAGE.split("## What cannot be derived")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| ([^|`]+) \| `([^`]+)` \|$", section, re.MULTILINE))


def test_every_refusal_of_the_page_is_tried():
    assert set(refusals()) == set(REFUSED)


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.filterwarnings("ignore::UserWarning")  # of lazy layers, which are a beta feature
def test_a_network_that_cannot_be_derived_is_refused_with_the_message_of_the_page(case):
    make, features = REFUSED[case]
    with pytest.raises(DerivationError) as refused:
        slimmable_from_module("own", make(), [ModelInput((features,))], Task(TaskKind.REGRESSION))
    expected = re.escape(refusals()[case]).replace("FILE:LINE", rf"{HERE}:\d+")
    assert re.search(expected, str(refused.value)), refused.value
    assert "\n" not in str(refused.value)


def test_the_example_is_what_the_command_prints(capsys, monkeypatch):
    monkeypatch.setattr(cli, "set_up_logs", lambda *_, **__: None)
    block = re.search(r"```console\n(\$ slimfleet inspect .*?)```", PAGE, re.DOTALL)[1]
    _, *shown = block.splitlines()
    assert cli.main(["inspect", "cnn2d", "--options", '{"classes": ["a", "b"]}']) == 0
    printed = capsys.readouterr().out.splitlines()
    # Predicted bytes depend on the version of torch, by a little.
    exact = [re.sub(r"(KiB|MiB).*|[\d.]+ (?=[KM]iB)", "", line) for line in shown]
    assert exact == [re.sub(r"(KiB|MiB).*|[\d.]+ (?=[KM]iB)", "", line) for line in printed]
