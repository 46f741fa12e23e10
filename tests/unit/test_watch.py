import numpy as np
import pytest

from slimfleet import watch
from slimmable.samples import SamplesError, split_recordings


def test_ten_people_did_seven_exercises_with_both_arms():
    recordings = watch.recordings()
    assert len(recordings) == 140
    done = {(record.person, record.exercise, record.side) for record in recordings}
    assert done == {(p, e, s) for p in range(1, 11) for e in range(7) for s in (0, 1)}
    for record in recordings:
        assert record.signal.dtype == np.float32
        assert record.signal.shape[1] == len(watch.SENSORS)
        assert len(record.signal) > watch.WINDOW


def test_names_stand_in_the_order_of_the_file():
    with np.load(watch.__path__[0] + "/watch.npz", allow_pickle=False) as data:
        assert tuple(data["exercises"]) == watch.EXERCISES
        assert tuple(data["channels"]) == watch.SENSORS


def test_people_train_validate_or_are_unseen():
    people = {*watch.TRAIN_PEOPLE, watch.VALIDATION_PERSON, watch.UNSEEN_PERSON}
    assert people == set(range(1, 11))
    assert len(watch.TRAIN_PEOPLE) == 8


def test_a_persons_windows_are_scaled_and_know_their_recording():
    counts = []
    for person in range(1, 11):
        samples = watch.person_samples(person)
        counts.append(len(samples))
        assert samples.x.shape[1:] == (6, watch.WINDOW)
        assert set(samples.y.tolist()) == set(range(7))
        assert len(np.unique(samples.recording)) == 14
        for number in np.unique(samples.recording):
            assert watch.recordings()[number].person == person
    assert sum(counts) == 4677
    assert (min(counts), max(counts)) == (295, 561)


def test_the_scale_is_the_typical_spread_of_each_channel():
    x = np.concatenate([watch.person_samples(person).x for person in watch.TRAIN_PEOPLE])
    spread = x.std(axis=(0, 2))
    assert ((spread > 0.7) & (spread < 1.4)).all()


def test_the_validation_person_can_be_split_with_all_exercises_on_both_sides():
    calibration, measurement = split_recordings(watch.person_samples(watch.VALIDATION_PERSON))
    assert set(calibration.y.tolist()) == set(measurement.y.tolist()) == set(range(7))


def test_an_eleventh_person_is_refused():
    with pytest.raises(SamplesError, match="no person 11"):
        watch.person_samples(11)
