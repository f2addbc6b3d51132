"""The JSON document: the same facts, whole bytes, stable keys, and back again."""

from __future__ import annotations

import json

import pytest
from made_up import made_up_batch, made_up_estimate

from estimator.errors import ConfigError, DeviceError
from estimator.report.failure import failure_json, failure_text
from estimator.report.json import Document, from_json, schema, to_json
from estimator.result import SCHEMA_VERSION, Estimate

pytestmark = pytest.mark.pure

PROMISED = [
    "schema_version",
    "job",
    "device",
    "torch_version",
    "max_batch_size",
    "max_batch_size_low",
    "max_batch_size_without_retries",
    "limited_by",
    "peak_requested_bytes",
    "peak_allocated_bytes",
    "peak_reserved_bytes",
    "device_bytes",
    "by_category",
    "at",
    "counts",
    "warnings",
    "seconds",
]


def test_promised_keys_stand_at_the_top_in_a_stable_order() -> None:
    """Programs may rely on these keys, and on getting the same text for the same answer."""
    document = to_json(made_up_estimate())
    assert list(document) == list(Document.model_fields)
    assert [key for key in document if key in PROMISED] == PROMISED
    assert document["schema_version"] == SCHEMA_VERSION
    assert json.dumps(document) == json.dumps(to_json(made_up_estimate()))


def test_top_figures_are_those_of_the_best_batch_and_sum() -> None:
    """by_category sums to device_bytes, at the top and at every batch size."""
    document = to_json(made_up_estimate(), made_up_batch(3))
    assert document["device_bytes"] == document["at"]["8"]["device_bytes"]
    assert sum(document["by_category"].values()) == document["device_bytes"]
    for batch in document["at"].values():
        assert sum(batch["by_category"].values()) == batch["device_bytes"]
    assert list(document["at"]) == ["3", "8", "9"]
    named = [document[f"{role}_batch_size"] for role in ("best", "next", "requested")]
    assert named == [8, 9, 3]


def test_every_size_is_a_whole_number() -> None:
    """A byte count is an int, never a float or a text."""

    def sizes(value: object, name: str = "") -> list[object]:
        if isinstance(value, dict):
            return [x for key, item in value.items() for x in sizes(item, name if name.endswith("_bytes") else key)]
        if isinstance(value, list):
            return [x for item in value for x in sizes(item, name)]
        return [value] if name.endswith("_bytes") or name == "by_category" else []

    found = sizes({k: v for k, v in to_json(made_up_estimate()).items() if k != "device"})
    assert len(found) > 50
    assert {type(size) for size in found} == {int}


def test_round_trip_through_text_loses_nothing() -> None:
    """What was written and read back is the same record, and is written the same again."""
    before = made_up_estimate()
    document = json.loads(json.dumps(to_json(before)))
    after = from_json(document)
    assert isinstance(after, Estimate)
    assert after.model_dump() == before.model_dump()
    assert to_json(after) == document


def test_read_back_estimate_knows_only_its_batch_sizes() -> None:
    """An estimate from JSON answers for what it holds and says so for the rest, instead of guessing."""
    after = from_json(to_json(made_up_estimate(), made_up_batch(3)))
    assert after.at(3) == made_up_batch(3)
    assert after.at(9).fits is False
    with pytest.raises(RuntimeError, match="only the batch sizes 3, 8, 9; got 4"):
        after.at(4)


def test_nothing_fits_round_trip() -> None:
    """Batch 0 is an answer: the figures are those of one sample."""
    document = to_json(made_up_estimate(0))
    assert (document["max_batch_size"], document["best_batch_size"], document["fits"]) == (0, 1, False)
    assert from_json(document).best.batch_size == 1


def test_fits_is_about_the_batch_that_was_asked_about() -> None:
    """`fits` and the exit code say the same."""
    assert to_json(made_up_estimate())["fits"] is True
    assert to_json(made_up_estimate(), made_up_batch(9, fits=False))["fits"] is False


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema_version": 999}, "999"),
        ({"schema_version": None}, "None"),
        ({"max_batch_size": "many"}, "max_batch_size"),
        ({"best_batch_size": 77}, "77"),
        ({"at": {}}, "8"),
    ],
)
def test_what_is_no_estimate_is_refused(change: dict[str, object], said: str) -> None:
    """Another version or a broken document is a ConfigError that names the place."""
    with pytest.raises(ConfigError) as caught:
        from_json({**to_json(made_up_estimate()), **change})
    assert said in str(caught.value)


def test_schema_describes_the_document() -> None:
    """The schema's properties are the document's keys, all of them always there."""
    described, document = schema(), to_json(made_up_estimate(), made_up_batch(3))
    assert list(described["properties"]) == list(document)
    assert set(described["required"]) == set(document)
    batch = described["$defs"]["BatchDocument"]
    assert set(batch["properties"]) == set(document["at"]["8"])


def test_failure_holds_every_fact() -> None:
    """An error is what, got, allowed, where, what to do: in text and in JSON."""
    error = DeviceError(
        "no such device", got="a1000", allowed="a100-80gb, l4", where="--device", hint="did you mean a100?"
    )
    document = failure_json(error)["error"]
    assert document["kind"] == "DeviceError"
    assert document["exit_code"] == 2
    for fact in ("no such device", "a1000", "a100-80gb, l4", "--device", "did you mean a100?"):
        assert fact in document.values()
        assert fact in failure_text(error)
