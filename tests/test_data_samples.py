"""Lengths of a job's own data: one pass that leaves no trace, samplers, batches of a given length."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
)

from estimator import TrainingJob
from estimator.data.gather import gathered
from estimator.data.samplers import draws_at_random, epoch_of, hardest, lengths_of_sampler
from estimator.data.samples import Samples
from estimator.errors import EstimatorError, JobError, UsageError
from estimator.trace.batches import batch_maker

pytestmark = pytest.mark.torch


class Texts(Dataset[Any]):
    """Samples of the given lengths, with noise as augmentation draws it."""

    def __init__(self, lengths: list[int], **more: Any) -> None:
        self.lengths, self.more, self.read = lengths, more, list[int]()

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.read.append(index)
        random.random(), np.random.rand(), torch.rand(1)
        ids = torch.randint(9, (self.lengths[index],))
        return {"ids": ids, "mask": torch.ones_like(ids), "label": torch.tensor(1), **self.more}


def collate(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Pad to the longest; takes a key out of each sample, as collators of transformers do."""
    labels = torch.stack([sample.pop("label") for sample in samples])
    ids = torch.nn.utils.rnn.pad_sequence([sample["ids"] for sample in samples], batch_first=True)
    return {"ids": ids, "labels": labels}


def pads(data: Any) -> Any:
    """A loader that takes samples of any lengths together."""
    return DataLoader(data, 2, collate_fn=list)


def job(batch: Any) -> TrainingJob:
    return TrainingJob(model=lambda: torch.nn.Linear(1, 1), batch=batch, optimizer="sgd")


def refused(call: Any) -> str:
    with pytest.raises(EstimatorError) as caught:
        call()
    assert caught.value.exit_code == 2
    return str(caught.value)


def states() -> list[Any]:
    return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]


# ------------------------------------------------------------ the pass


@pytest.mark.parametrize("wrap", [pads, lambda data: DataLoader(data, 2, collate_fn=collate)])
def test_one_pass_reads_each_sample_once_and_leaves_random_numbers_alone(wrap: Any) -> None:
    data = Texts([3, 5, 2, 5])
    before = states()
    told: list[tuple[int, int]] = []
    found = Samples(job(wrap(data)), advance=lambda done, total, _: told.append((done, total)))
    assert found.lengths.tolist() == [3, 5, 2, 5]
    assert data.read == [0, 1, 2, 3, 2, 1]  # and the shortest and the longest, which must go together
    assert told == [(4, 4)]
    assert states() == before


def test_a_batch_of_a_length_is_a_sample_of_that_length_repeated() -> None:
    data = Texts([3, 5, 2, 5])
    found = Samples(job(DataLoader(data, 2, collate_fn=collate)))
    data.read.clear()
    before = states()
    make = batch_maker(found.job_at(5).batch)
    assert states() == before
    assert [tuple(make(n)["ids"].shape) for n in (1, 4, 8)] == [(1, 5), (4, 5), (8, 5)]
    assert tuple(make(1000)["ids"].shape) == (1000, 5)
    assert data.read == [1]


def test_a_stream_keeps_a_sample_of_each_length() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            yield from ({"ids": torch.zeros(n), "label": torch.tensor(0)} for n in (4, 2, 4))

    found = Samples(job(DataLoader(Stream(), 2, collate_fn=collate)))
    assert found.lengths.tolist() == [4, 2, 4]
    assert batch_maker(found.job_at(2).batch)(3)["ids"].shape == (3, 2)


def test_a_stream_without_end_is_looked_at_so_far() -> None:
    class Endless(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            n = 0
            while True:
                n += 1
                yield torch.zeros(n)

    assert Samples(job(pads(Endless())), most=5).lengths.tolist() == [1, 2, 3, 4, 5]
    data = Texts([3, 5, 4])
    assert Samples(job(pads(data)), most=2).lengths.tolist() == [3, 5]
    assert data.read == [0, 1, 0, 1]


def test_a_sample_that_cannot_be_read_is_named() -> None:
    class Broken(Texts):
        def __getitem__(self, index: int) -> Any:
            return super().__getitem__(index) if index < 2 else [][index]

    text = refused(lambda: Samples(job(Broken([3, 5, 4]))))
    assert "reading sample 2 of the dataset failed: IndexError" in text
    assert "test_data_samples.py" in text


@pytest.mark.parametrize(
    ("sample", "lengths"),
    [
        (lambda n: (torch.zeros(n), 1), [3, 5]),
        (lambda n: ([1] * n, "a text"), [3, 5]),
        (lambda n: {"a": {"b": np.zeros((n, 7))}}, [3, 5]),
        (lambda n: torch.zeros(2, n), [3, 5]),
    ],
)
def test_what_varies_is_found(sample: Any, lengths: list[int]) -> None:
    class Data(Dataset[Any]):
        def __len__(self) -> int:
            return len(lengths)

        def __getitem__(self, index: int) -> Any:
            return sample(lengths[index])

    assert Samples(job(pads(Data()))).lengths.tolist() == lengths


def test_two_lengths_need_a_name_and_a_wrong_one_gets_the_nearest() -> None:
    class Pairs(Texts):
        def __getitem__(self, index: int) -> Any:
            return {"source": torch.zeros(self.lengths[index]), "target": torch.zeros(10 - self.lengths[index])}

    data = Pairs([3, 5, 4])
    assert "--column" in refused(lambda: Samples(job(data)))
    assert Samples(job(pads(data)), column="target").lengths.tolist() == [7, 5, 6]
    assert "did you mean target?" in refused(lambda: Samples(job(data), column="targets"))


def test_data_that_give_no_lengths_are_refused() -> None:
    assert "the dataset is empty" in refused(lambda: Samples(job(Texts([]))))
    assert "no batches of its own" in refused(lambda: Samples(job(DataLoader(Texts([3, 5]), batch_size=None))))
    assert "do not differ" in refused(lambda: Samples(job(Texts([4, 4]))))
    assert "sample 1 is empty" in refused(lambda: Samples(job(Texts([4, 0, 3]))))


def test_data_that_draw_their_lengths_are_refused() -> None:
    class Crops(Texts):
        def __getitem__(self, index: int) -> Any:
            self.read.append(index)
            return {"ids": torch.zeros(len(self.read))}

    assert "another length each time" in refused(lambda: Samples(job(pads(Crops([1, 1, 1])))))


def test_lengths_from_elsewhere_must_be_those_of_the_data() -> None:
    data = Texts([3, 5, 2])
    found = Samples(job(DataLoader(data, 2, collate_fn=collate)), lengths=np.asarray([3, 5, 2]))
    assert data.read == [2, 1]
    assert batch_maker(found.job_at(5).batch)(2)["ids"].shape == (2, 5)
    assert "2 lengths, 3 samples" in refused(lambda: Samples(job(data), lengths=np.asarray([3, 5])))


# ------------------------------------------------------------ collating at two sizes


def test_a_loader_is_collated_at_two_sizes_and_no_further() -> None:
    data = Texts([3] * 100)
    make = batch_maker(DataLoader(data, 32, collate_fn=collate))
    before = states()
    assert [make(n)["ids"].shape[0] for n in (4, 8)] == [4, 8]
    assert data.read == list(range(8))
    del before


def test_a_trace_leaves_the_random_numbers_alone() -> None:
    import estimator

    data = Texts([3] * 100)
    net = TrainingJob(
        model=lambda: torch.nn.Linear(3, 2), batch=DataLoader(data, 32, collate_fn=collate), optimizer="sgd",
        loss=lambda model, batch: model(batch["ids"].float()).sum(),
    )  # fmt: skip
    before = states()
    estimator.estimate(net, "l4", memory="1GiB", isolate=False, cross_check=False)
    assert states() == before


def test_a_collate_function_that_fails_is_named_with_the_samples() -> None:
    def fails(samples: list[Any]) -> Any:
        return torch.stack([sample["ids"] for sample in samples])

    make = batch_maker(DataLoader(Texts([3, 5]), 2, collate_fn=fails))
    text = refused(lambda: make(2))
    assert "the collate function fails on 2 samples" in text
    assert "stack expects each tensor to be equal size" in text


def test_samples_that_do_not_go_together_are_told_before_anything_is_traced() -> None:
    text = refused(lambda: Samples(job(Texts([3, 5, 4]))))
    assert "the collate function fails on 2 samples" in text


# ------------------------------------------------------------ samplers


def test_a_sampler_with_lengths_gives_them_and_another_is_refused() -> None:
    class Grouped(Sampler[int]):
        def __init__(self) -> None:
            self.lengths = [3, 5, 2]

        def __iter__(self) -> Iterator[int]:
            return iter((2, 0, 1))

    assert lengths_of_sampler(Grouped()).tolist() == [3, 5, 2]
    assert "lengths=[...], sampler=the sampler" in refused(lambda: lengths_of_sampler(SequentialSampler(Texts([1, 2]))))


def test_the_batches_of_an_epoch_and_the_generator_stays() -> None:
    lengths = np.asarray([3, 5, 2, 9, 1])
    assert epoch_of(SequentialSampler(Texts([0] * 5)), lengths, 2) == [(2, 5), (2, 9), (1, 1)]
    assert epoch_of([[0, 1, 2], [3, 4]], lengths, None) == [(3, 5), (2, 9)]
    generator = torch.Generator().manual_seed(3)
    shuffled = BatchSampler(RandomSampler(Texts([0] * 5), generator=generator), 2, False)
    before, others = generator.get_state(), states()
    assert sum(count for count, _ in epoch_of(shuffled, lengths, None)) == 5
    assert torch.equal(generator.get_state(), before)
    assert states() == others


def test_samplers_that_cannot_be_followed_are_refused() -> None:
    lengths = np.asarray([3, 5])
    assert "batch_size" in refused(lambda: epoch_of([0, 1], lengths, None))
    assert "0 to 1" in refused(lambda: epoch_of([[0, 2]], lengths, None))
    assert "gives no batch" in refused(lambda: epoch_of([], lengths, None))


def test_the_hardest_batches_are_those_that_no_other_covers() -> None:
    assert hardest([(2, 9), (4, 9), (3, 8), (8, 3), (6, 3), (5, 5), (8, 2)]) == [(4, 9), (5, 5), (8, 3)]


def test_a_shuffled_loader_is_random_and_others_are_followed() -> None:
    data = Texts([3, 5, 2, 9])
    assert draws_at_random(DataLoader(data, 2, shuffle=True, collate_fn=collate))
    assert not draws_at_random(DataLoader(data, 2, collate_fn=collate))
    again = RandomSampler(data, replacement=True)
    assert not draws_at_random(DataLoader(data, 2, sampler=again, collate_fn=collate))


def gather(job: Any, lengths: Any = None, **more: Any) -> Any:
    usual: dict[str, Any] = dict(
        column=None, sampler=None, over="sequence_length", batch_size=None, max_length=None, multiple=1, advance=None
    )
    return gathered(job, lengths, **(usual | more))


def test_a_loader_brings_its_batch_size_and_its_order() -> None:
    data = Texts([3, 5, 2, 9])
    shuffled = gather(job(DataLoader(data, 2, shuffle=True, collate_fn=collate)))
    assert (shuffled.batch_size, shuffled.batches) == (2, None)
    ordered = gather(job(DataLoader(data, 2, collate_fn=collate)))
    assert (ordered.batch_size, ordered.batches) == (2, [(2, 5), (2, 9)])


def test_lengths_are_cut_and_rounded_up() -> None:
    found = gather(lambda length: job(lambda n: torch.zeros(n, length)), [3, 20, 9], max_length=10, multiple=8)
    assert found.lengths.tolist() == [3, 20, 9]
    assert found.padded.tolist() == [8, 16, 16]
    assert found.cut_count == 1
    assert found.job_at(16).batch(2).shape == (2, 16)


def test_what_says_nothing_of_lengths_is_refused() -> None:
    plain = job(lambda n: torch.zeros(n, 3))
    assert "--lengths FILE:COLUMN" in refused(lambda: gather(plain))
    assert "lambda n, length" in refused(lambda: gather(plain, [3, 4]))
    assert "no lengths" in refused(lambda: gather(plain, 7))
    assert "gives no job" in refused(lambda: gather(lambda length: length, [3]).job_at(3))
    assert "more samples than the data" in refused(
        lambda: gather(job(lambda n, length: torch.zeros(n, length)), [3, 4], batch_size=3)
    )


def test_a_batch_that_takes_a_length_is_sized() -> None:
    sized = job(lambda n, length: torch.zeros(n, length))
    assert sized.size_name == "length"
    assert sized.sized(7).batch(2).shape == (2, 7)
    assert sized.sized(7).sized(8).batch(2).shape == (2, 8)
    assert job(lambda n, device=None: torch.zeros(n)).size_name is None
    with pytest.raises(JobError, match="size of 1 or more"):
        sized.sized(0)
    with pytest.raises(JobError, match="takes no size"):
        job(lambda n: torch.zeros(n)).sized(3)
    with pytest.raises(UsageError, match="size of a sample, and none was given"):
        batch_maker(sized.batch)


# ------------------------------------------------------------ what predict makes of data


def linear(width: int, data: Any, collate_fn: Any = None) -> TrainingJob:
    return TrainingJob(
        model=lambda: torch.nn.Linear(width, 2), batch=DataLoader(data, 32, collate_fn=collate_fn), optimizer="sgd",
        loss=lambda model, batch: torch.nn.functional.cross_entropy(model(batch[0]), batch[1]),
    )  # fmt: skip


@pytest.mark.parametrize("isolate", [True, False])
def test_data_that_leave_torch_are_run_for_real(isolate: bool) -> None:
    """NumPy cannot see tensors without data: the samples are read again as they are, integers and all."""
    import estimator

    class Arrays(Dataset[Any]):
        def __len__(self) -> int:
            return 100

        def __getitem__(self, index: int) -> Any:
            return torch.from_numpy(torch.rand(7).numpy() * 2), index % 2

    before = states()
    made = estimator.estimate(linear(7, Arrays()), "l4", memory="1GiB", isolate=isolate, cross_check=False)
    plain = estimator.estimate(
        linear(7, Arrays()).with_(batch=lambda n: (torch.rand(n, 7), torch.randint(2, (n,)))),
        "l4", memory="1GiB", isolate=isolate, cross_check=False,
    )  # fmt: skip
    assert states() == before
    assert made.max_batch_size == plain.max_batch_size
    assert made.best.peak_requested_bytes == plain.best.peak_requested_bytes


def test_samples_that_differ_are_taken_at_their_largest_and_it_is_said() -> None:
    import estimator

    class Rows(Texts):
        def __getitem__(self, index: int) -> Any:
            return torch.rand(self.lengths[index], 7), torch.tensor(index % 2)

    def pad(samples: list[Any]) -> Any:
        rows = torch.nn.utils.rnn.pad_sequence([rows for rows, _ in samples], batch_first=True)
        return rows.sum(1), torch.stack([label for _, label in samples])

    def alone(length: int) -> estimator.Estimate:
        batch = lambda n: (torch.rand(n, length, 7).sum(1), torch.randint(2, (n,)))  # noqa: E731
        return estimator.estimate(linear(7, None).with_(batch=batch), "l4", memory="1GiB", cross_check=False)

    data = Rows([3, 5, 900, 5, 20, 4, 4, 4, 2000])
    found = estimator.estimate(linear(7, data, pad), "l4", memory="1GiB", cross_check=False)
    (warning,) = (w for w in found.warnings if w.code == "samples-differ")
    assert "the first 8 samples" in warning.message
    assert found.max_batch_size == alone(900).max_batch_size


def test_what_is_tried_again_is_not_logged(capfd: pytest.CaptureFixture[str]) -> None:
    import estimator

    made = TrainingJob(
        model=lambda: torch.nn.Linear(9, 2), batch=DataLoader(Texts([3, 5]), 2), optimizer="sgd",
        loss=lambda model, batch: model(batch["ids"].float()).sum(),
    )  # fmt: skip
    assert "fails on 2 samples" in refused(lambda: estimator.estimate(made, "l4", cross_check=False))
    assert "Traceback" not in capfd.readouterr().err
