"""An LSTM that labels every token of a sequence: a recurrent net, with dropout between its layers.

batch-estimator predict benchmarks/zoo/lstm.py:job --sequence-length 256 --device l4
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from estimator import TrainingJob


class Tagger(nn.Module):
    """Token ids (batch, token) to logits (batch, token, class)."""

    def __init__(self, vocabulary: int, width: int, layers: int, classes: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.rnn = nn.LSTM(width, width, layers, batch_first=True, dropout=0.1, bidirectional=True)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, ids: Tensor) -> Tensor:
        states, _ = self.rnn(self.token(ids))
        logits: Tensor = self.head(states)
        return logits


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    ids, labels = batch
    return F.cross_entropy(model(ids).flatten(0, 1), labels.flatten())


def _job(name: str, vocabulary: int, width: int, layers: int, classes: int, tokens: int) -> TrainingJob:
    return TrainingJob(
        name=name,
        model=lambda: Tagger(vocabulary, width, layers, classes),
        batch=lambda n: (torch.randint(vocabulary, (n, tokens)), torch.randint(classes, (n, tokens))),
        loss=loss,
        optimizer="adam",
        grad_clip=1.0,
    )


def job(sequence_length: int = 256, num_classes: int = 10) -> TrainingJob:
    return _job("lstm", 20000, 512, 2, num_classes, sequence_length)


def tiny(sequence_length: int = 6, num_classes: int = 4) -> TrainingJob:
    return _job("lstm-tiny", 50, 8, 2, num_classes, sequence_length)
