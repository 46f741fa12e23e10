"""In how few bits an update must travel, by its link."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.messages import Profile, WidthCost
from coordinator.settings import Settings, Training, Uploads
from coordinator.upload_encoding import LADDER, choose_encoding
from coordinator.width_policy import choose_width
from journal import events as e
from slimmable.update_codec import UpdateEncoding, encoded_share
from tests.fakes.office import Office, profile, settings
from tests.unit.test_width_policy import SPEC

ADAPTIVE = Uploads(encoding="adaptive", share=0.1, keep=0.01)
SIZE, ROUND_S = 1_000_000, 100.0  # so that an upload may take 10 s


@pytest.mark.parametrize(
    ("rate", "encoding"),
    [
        (1e9, "float32"),
        (1e5, "float32"),
        (9.9e4, "float16"),
        (5e4, "float16"),
        (4.9e4, "int8"),
        (2.5e4, "int8"),
        (2.4e4, "top-k"),
        (1.0, "top-k"),
    ],
)
def test_the_first_encoding_whose_upload_fits_is_taken(rate, encoding):
    choice = choose_encoding(ADAPTIVE, SIZE, rate, ROUND_S)
    assert choice.encoding == encoding
    assert choice.sent == int(SIZE * encoded_share(UpdateEncoding(encoding), 0.01))


def test_the_reason_says_what_fits_and_what_did_not():
    narrow = choose_encoding(ADAPTIVE, SIZE, 4e4, ROUND_S).reason
    assert narrow == (
        "int8: its upload takes 6.2 of the 10 s allowed, in float32 25 s, in float16 12 s"
    )
    assert choose_encoding(ADAPTIVE, SIZE, 1.0, ROUND_S).reason.startswith(
        "top-k: no upload fits the 10 s allowed, in float32 1e+06 s"
    )
    assert choose_encoding(ADAPTIVE, SIZE, 0.0, ROUND_S) == choose_encoding(
        ADAPTIVE, SIZE, 0.0, 1.0
    )
    unknown = choose_encoding(ADAPTIVE, SIZE, 0.0, ROUND_S)
    assert (unknown.encoding, unknown.sent) == (UpdateEncoding.FLOAT32, SIZE)
    assert "not been measured yet" in unknown.reason


def test_what_the_operator_names_is_taken_whatever_the_link():
    choice = choose_encoding(Uploads(encoding="int8"), SIZE, 1.0, ROUND_S)
    assert (choice.encoding, choice.sent, choice.reason) == (UpdateEncoding.INT8, SIZE // 4, "")


def test_top_k_that_keeps_much_is_not_taken_for_a_smaller_one():
    much = Uploads(encoding="adaptive", keep=0.5)
    assert choose_encoding(much, SIZE, 1.0, ROUND_S).encoding is UpdateEncoding.INT8


@given(st.integers(0, 10**9), st.floats(1e-3, 1e9), st.floats(1e-3, 1e4), st.floats(0.001, 1))
def test_nothing_that_loses_less_would_have_fitted(size, rate, round_s, keep):
    uploads = Uploads(encoding="adaptive", keep=keep)
    choice = choose_encoding(uploads, size, rate, round_s)
    allowed = uploads.share * round_s
    shares = [encoded_share(encoding, keep) for encoding in LADDER]
    fitting = [
        one for one, part in zip(LADDER, shares, strict=True) if int(size * part) / rate <= allowed
    ]
    if fitting:
        assert choice.encoding is fitting[0]
    else:
        assert choice.sent == min(int(size * part) for part in shares)


def machine(rate):
    cost = WidthCost(width=1.0, step_s=0.1, peak_bytes=1)
    known = profile(link_bytes_per_s=rate, costs=(cost,))
    return Profile(
        model="cnn1d",
        spec_hash=SPEC,
        can_train=True,
        memory_budget=known.memory_budget,
        link_bytes_per_s=rate,
        costs=(cost,),
    )


@pytest.mark.parametrize(("rate", "sent"), [(1e9, 1.0), (5e5, 0.5), (3e5, 0.25), (1e5, 0.015)])
def test_a_prediction_counts_the_bytes_of_the_encoding_that_was_chosen(rate, sent):
    chosen = Settings(
        fleet="plant",
        model="cnn1d",
        widths=(1.0,),
        training=Training(steps=10),
        uploads=Uploads(encoding="adaptive", share=0.1),
    )
    size = 4_000_000
    (one,) = choose_width(machine(rate), chosen, SPEC, lambda _: size).forecasts
    assert one.sent == pytest.approx(sent * size)
    assert one.predicted_s == pytest.approx(1.2 + (size + one.sent) / rate)


def test_each_task_carries_the_encoding_of_its_device_and_the_journal_why():
    chosen = settings(
        rounds={"min_devices": 2, "deadline_s": 10.0}, uploads=Uploads(encoding="adaptive")
    )
    desk = Office(chosen).begin("press")
    desk.join("radio", link_bytes_per_s=400.0)
    tasks = {task.device: task for task in desk.of(e.RoundOpened)[0].tasks}
    assert tasks["press"].upload == "float32"
    assert tasks["radio"].upload == "int8"  # 500 bytes take 1.25 s
    assert "its upload takes 0.62 of the 0.8 s allowed" in tasks["radio"].reason
    assert desk.replayed() == desk.state
