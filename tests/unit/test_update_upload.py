"""What the training process makes of the encoding that a task asks for."""

import msgspec
import numpy as np
import pytest

from slimmable.slicing import slice_state
from slimmable.state import decode_state
from slimmable.update_codec import UpdateEncoding, decode_change
from tests.unit.test_held_back import MODEL, STATE, command, recordings, trainer

__all__ = ["command", "trainer"]  # fixtures

pytestmark = pytest.mark.torch


def changes(trained, width):
    return decode_change(trained.state, MODEL.spec, width)


@pytest.mark.parametrize("upload", list(UpdateEncoding))
def test_the_update_is_in_the_encoding_that_was_asked_for(trainer, command, upload):
    samples = recordings(8)
    full = decode_state(trainer.answer(command(samples, evaluate=False)).state)
    trained = trainer.answer(command(samples, evaluate=False, upload=str(upload), upload_keep=1.0))
    assert trained.upload is upload
    found = changes(trained, 0.5)
    if upload is UpdateEncoding.FLOAT32:
        assert found is None
        return
    received = slice_state(STATE, MODEL.spec, 0.5)
    for name in MODEL.spec.parameters:
        true = full[name] - received[name]
        np.testing.assert_allclose(found[name], true, atol=np.abs(true).max() / 100)


def test_an_encoding_of_a_later_version_is_answered_in_full_precision(trainer, command, caplog):
    trained = trainer.answer(command(recordings(8), upload="invented-later"))
    assert trained.upload is UpdateEncoding.FLOAT32
    assert set(decode_state(trained.state)) == set(MODEL.spec.tensors)
    assert "'invented-later' is unknown here" in caplog.text


def test_what_was_left_out_travels_with_the_update_that_is_told_of_it(trainer, command):
    order = command(recordings(8), evaluate=False, upload="top-k", upload_keep=0.2)
    answer = trainer.answer(order)
    first = changes(answer, 0.5)
    second = changes(trainer.answer(msgspec.structs.replace(order, left=answer.left)), 0.5)
    assert any((first[name] != second[name]).any() for name in first)
