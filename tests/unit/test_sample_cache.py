"""A training process holds one device's samples; a worker of a simulation those of several."""

import numpy as np
import pytest

from edge_agent import sample_cache
from edge_agent.sample_cache import SampleCache
from edge_agent.trainer_protocol import DataSource
from slimmable.samples import Samples, SamplesError

RECORDINGS = np.repeat(np.arange(10), 4)
SAMPLES = Samples(np.zeros((40, 5), "f4"), np.arange(40) % 2, RECORDINGS)
SIZE = 40 * (5 * 4 + 8 + 8)


@pytest.fixture
def reads(monkeypatch):
    read = []

    def reader(path, _reader, _options):
        read.append(path.name)
        if path.name == "missing":
            raise SamplesError("no such file")
        return SAMPLES

    monkeypatch.setattr(sample_cache, "read_samples", reader)
    return read


def source(name, **options):
    return DataSource(path=name, reader="npz", options=options)


def test_a_device_reads_its_samples_once_and_never_holds_two_sets(reads):
    cache = SampleCache()
    for name in ("a", "a", "b", "b", "a"):
        assert cache.whole(source(name)) is SAMPLES
    assert reads == ["a", "b", "a"]


def test_a_worker_keeps_as_many_samples_as_it_may(reads):
    cache = SampleCache(keep_bytes=2 * SIZE)
    for name in ("a", "b", "c", "a", "b", "c"):
        cache.whole(source(name))
    assert reads == ["a", "b", "c"]  # two stay while a third is read


def test_what_was_used_last_is_let_go_last(reads):
    cache = SampleCache(keep_bytes=SIZE)
    for name in ("a", "b", "a", "c", "a", "b"):
        cache.whole(source(name))
    assert reads == ["a", "b", "c", "b"]


def test_other_options_of_the_reader_are_other_samples(reads):
    cache = SampleCache(keep_bytes=10 * SIZE)
    cache.whole(source("a", split=1))
    cache.whole(source("a", split=2))
    assert reads == ["a", "a"]


def test_samples_are_split_once_and_the_whole_is_not_kept_beside_its_parts(reads):
    cache = SampleCache()
    training, held = cache.split(source("a"))
    assert cache.split(source("a")) == (training, held)
    assert len(training) + len(held) == len(SAMPLES)
    assert reads == ["a"]
    cache.whole(source("a"))
    assert reads == ["a", "a"]


def test_what_cannot_be_read_leaves_the_rest_as_it_was(reads):
    cache = SampleCache(keep_bytes=10 * SIZE)
    cache.whole(source("a"))
    with pytest.raises(SamplesError):
        cache.whole(source("missing"))
    cache.whole(source("a"))
    assert reads == ["a", "missing"]
