"""Recurrent networks over signals and over tokens."""

# mypy: disable-error-code="no-any-return"

import torch
from torch import nn

from benchmarks.networks import Shapes


class LstmClassifier(nn.Module):
    """Two LSTM layers; the last step is classified."""

    def __init__(
        self, inputs: int = 5, hidden: int = 32, layers: int = 2, classes: int = 6
    ) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden, layers, batch_first=True, dropout=0.1)
        self.fc = nn.Linear(hidden, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes) of signals (batch, T, F)."""
        out, _ = self.lstm(x)
        return self.fc(out[:, -1, :])


def native_lstm(shapes: Shapes, layers: int = 2) -> LstmClassifier:
    """Build the network with the lengths that are kept."""
    inputs = shapes("lstm.weight_ih_l0")[1]
    return LstmClassifier(inputs, shapes("lstm.weight_hh_l0")[1], layers, shapes("fc.weight")[0])


class BidirectionalGru(nn.Module):
    """Two GRU layers in both directions; the mean over time is classified."""

    def __init__(
        self, inputs: int = 5, hidden: int = 32, layers: int = 2, classes: int = 6
    ) -> None:
        super().__init__()
        self.gru = nn.GRU(inputs, hidden, layers, batch_first=True, bidirectional=True)
        self.norm = nn.LayerNorm(2 * hidden)
        self.fc = nn.Linear(2 * hidden, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes) of signals (batch, T, F)."""
        out, _ = self.gru(x)
        return self.fc(self.norm(out).mean(dim=1))


def native_gru(shapes: Shapes, layers: int = 2) -> BidirectionalGru:
    """Build the network with the lengths that are kept."""
    inputs = shapes("gru.weight_ih_l0")[1]
    return BidirectionalGru(inputs, shapes("gru.weight_hh_l0")[1], layers, shapes("fc.weight")[0])


class TokenRnn(nn.Module):
    """Tokens, a plain RNN with a learned first state, time before batch."""

    def __init__(
        self, vocabulary: int = 30, dim: int = 16, hidden: int = 32, classes: int = 4
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, dim, padding_idx=0)
        self.start = nn.Parameter(torch.zeros(1, 1, hidden))
        self.rnn = nn.RNN(dim, hidden, nonlinearity="relu")
        self.fc = nn.Linear(hidden, classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes) of tokens (batch, T)."""
        x = self.embedding(tokens).transpose(0, 1)
        state = self.start.repeat(1, tokens.size(0), 1)
        _, last = self.rnn(x, state)
        return self.fc(last.squeeze(0))


def native_token_rnn(shapes: Shapes) -> TokenRnn:
    """Build the network with the lengths that are kept."""
    vocabulary, dim = shapes("embedding.weight")
    classes, hidden = shapes("fc.weight")
    return TokenRnn(vocabulary, dim, hidden, classes)


class BothEndsGru(nn.Module):
    """A bidirectional GRU whose last states of both directions are laid side by side."""

    def __init__(self, inputs: int = 5, hidden: int = 16, classes: int = 6) -> None:
        super().__init__()
        self.gru = nn.GRU(inputs, hidden, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(2 * hidden, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes) of signals (batch, T, F)."""
        _, state = self.gru(x)
        return self.fc(torch.cat((state[0], state[1]), dim=1))


def native_both_ends(shapes: Shapes) -> BothEndsGru:
    """Build the network with the lengths that are kept."""
    hidden, inputs = shapes("gru.weight_hh_l0")[1], shapes("gru.weight_ih_l0")[1]
    return BothEndsGru(inputs, hidden, shapes("fc.weight")[0])


class CellLoop(nn.Module):
    """A loop over `nn.LSTMCell` with states of zeros."""

    def __init__(self, inputs: int = 5, hidden: int = 32, classes: int = 6) -> None:
        super().__init__()
        self.hidden = hidden
        self.cell = nn.LSTMCell(inputs, hidden)
        self.fc = nn.Linear(hidden, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes) of signals (batch, T, F)."""
        h = x.new_zeros(x.size(0), self.hidden)
        c = torch.zeros(x.size(0), self.hidden, device=x.device)
        for step in x.unbind(1):
            h, c = self.cell(step, (h, c))
        return self.fc(h)


def native_cell_loop(shapes: Shapes) -> CellLoop:
    """Build the network with the lengths that are kept."""
    inputs, hidden = shapes("cell.weight_ih")[1], shapes("cell.weight_hh")[1]
    return CellLoop(inputs, hidden, shapes("fc.weight")[0])


class ProjectedLstm(nn.Module):
    """An LSTM with a projection, behind a convolution over time."""

    def __init__(
        self, inputs: int = 5, channels: int = 16, hidden: int = 32, proj: int = 8, out: int = 3
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, channels, 3, padding=1)
        self.lstm = nn.LSTM(channels, hidden, batch_first=True, proj_size=proj)
        self.fc = nn.Linear(proj, out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return values (batch, T, out) of signals (batch, T, F)."""
        x = torch.relu(self.conv(x.transpose(1, 2))).transpose(1, 2)
        return self.fc(self.lstm(x)[0])


def native_projected_lstm(shapes: Shapes) -> ProjectedLstm:
    """Build the network with the lengths that are kept."""
    channels, inputs, _ = shapes("conv.weight")
    proj, hidden = shapes("lstm.weight_hr_l0")
    return ProjectedLstm(inputs, channels, hidden, proj, shapes("fc.weight")[0])
