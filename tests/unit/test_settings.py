"""Settings that contradict themselves are refused by name; all others survive the journal."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.codec import encode
from broker.messages import LinkStatus, ServerState
from coordinator.settings import (
    Contributions,
    Presence,
    Releases,
    Rewards,
    Rounds,
    Settings,
    SettingsError,
    Training,
    Uploads,
    WidthPolicy,
)

NUMBERS = {
    Training: ("steps", "batch_size", "learning_rate"),
    Rounds: ("budget", "quorum", "min_devices", "deadline_s", "patience", "failures_limit"),
    WidthPolicy: ("time_share", "memory_share"),
    Presence: ("heartbeat_s", "late_after"),
    Releases: ("valid_days", "attempts"),
    Contributions: ("coalitions", "decay"),
    Rewards: ("min_trainers", "significance", "aversion"),
}
NOT_NEGATIVE = {
    WidthPolicy: ("hottest_c", "traffic_per_day", "participation_floor"),
    Training: ("momentum", "weight_decay"),
    Rounds: ("minimum", "gather_s", "release_every", "retry_s"),
    Rewards: ("cutoff", "sharing"),
    Contributions: ("trim", "novelty", "alone_rounds"),
    Presence: ("grace_s",),
    Releases: ("delivery_s",),
}
PLACE = {
    Training: "training",
    Rounds: "rounds",
    WidthPolicy: "width_policy",
    Presence: "presence",
    Releases: "releases",
    Rewards: "rewards",
    Contributions: "contributions",
}


def settings(**changes):
    return Settings(**({"fleet": "plant", "model": "cnn1d"} | changes))


def named(table):
    return [(kind, name) for kind, names in table.items() for name in names]


def test_the_defaults_make_sense():
    assert settings().check() == settings()


@pytest.mark.parametrize(("kind", "name"), named(NUMBERS))
@pytest.mark.parametrize("value", [0, -1])
def test_what_must_be_above_zero_is_refused_by_name(kind, name, value):
    broken = settings(**{PLACE[kind]: kind(**{name: value})})
    with pytest.raises(SettingsError, match=f"{PLACE[kind]}.{name} = {value} must be above 0"):
        broken.check()


@pytest.mark.parametrize(("kind", "name"), named(NOT_NEGATIVE))
def test_what_may_be_zero_may_not_be_below(kind, name):
    settings(**{PLACE[kind]: kind(**{name: 0})}).check()
    with pytest.raises(SettingsError, match=f"{PLACE[kind]}.{name} = -1 must not be below 0"):
        settings(**{PLACE[kind]: kind(**{name: -1})}).check()


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Rounds, "deadline_s"),
        (Training, "learning_rate"),
        (Presence, "grace_s"),
        (Rewards, "cutoff"),
    ],
)
def test_a_number_that_json_cannot_hold_is_refused(kind, name, number):
    with pytest.raises(SettingsError, match=f"{PLACE[kind]}.{name} = .* finite number"):
        settings(**{PLACE[kind]: kind(**{name: number})}).check()


def test_a_number_in_the_options_of_a_model_must_be_finite_too():
    with pytest.raises(SettingsError, match="options.scale = nan"):
        settings(options={"scale": [1.0, math.nan]}).check()


@pytest.mark.parametrize(
    ("changes", "named_setting"),
    [
        ({"secure_aggregation": True}, "secure_aggregation = false"),
        ({"widths": ()}, "widths"),
        ({"widths": (0.5,)}, "widths"),
        ({"widths": (0.5, 0.25, 1.0)}, "widths"),
        ({"widths": (0.0, 1.0)}, "widths"),
        ({"widths": (0.5, 1.0, 2.0)}, "widths"),
        ({"rewards": Rewards(ladder=(1.0, 0.5))}, "rewards.ladder"),
        ({"rewards": Rewards(ladder=(0.5, 0.75))}, "rewards.ladder"),
        ({"rewards": Rewards(inference_only_width=0.33)}, "rewards.inference_only_width"),
        ({"block_size": 1023}, "block_size"),
        ({"block_size": 262145}, "block_size"),
        ({"training": Training(momentum=1.0)}, "training.momentum"),
        ({"width_policy": WidthPolicy(time_share=1.01)}, "width_policy.time_share"),
        ({"width_policy": WidthPolicy(memory_share=2.0)}, "width_policy.memory_share"),
        (
            {"width_policy": WidthPolicy(participation_floor=1.1)},
            "width_policy.participation_floor",
        ),
        ({"width_policy": WidthPolicy(traffic={"pump-1": -5})}, "-5 bytes for pump-1"),
        (
            {"width_policy": WidthPolicy(hours={"pump-1": "22-6"})},
            "hours: pump-1: '22-6' are no",
        ),
        ({"uploads": Uploads(encoding="adaptive", share=0.0)}, "uploads.share = 0.0 must be above"),
        ({"uploads": Uploads(share=1.5)}, "uploads.share = 1.5 must be at most 1"),
        ({"presence": Presence(late_after=4.0)}, "presence.offline_after"),
        ({"seed": -1}, "seed"),
        ({"contributions": Contributions(decay=1.01)}, "contributions.decay"),
        ({"rewards": Rewards(sharing=1.5)}, "rewards.sharing"),
        ({"rewards": Rewards(significance=1.0)}, "rewards.significance"),
        ({"rewards": Rewards(first_entitlement=0.3)}, "rewards.first_entitlement = 0.3"),
        ({"rewards": Rewards(caps={"pump-1": 50})}, "rewards.caps: 50 for pump-1"),
        ({"rewards": Rewards(rule="tiers")}, 'the rule "tiers" needs at least one'),
        ({"rewards": Rewards(tiers=((0.5, 0.25),))}, 'rewards.rule = "equal-gain"'),
        ({"rewards": Rewards(rule="tiers", tiers=((0.5, 0.3),))}, "0.5, 0.3. must be a share"),
        ({"rewards": Rewards(rule="tiers", tiers=((-1.0, 0.5),))}, "-1.0, 0.5. must be a share"),
        (
            {"rewards": Rewards(rule="tiers", tiers=((1.0, 0.5), (0.5, 1.0)))},
            "must have a larger share",
        ),
        (
            {"rewards": Rewards(rule="tiers", tiers=((0.5, 1.0), (1.0, 0.5)))},
            "a width that is not narrower",
        ),
        ({"contributions": Contributions(trim=0.5)}, "contributions.trim = 0.5 must be below 0.5"),
        ({"contributions": Contributions(evaluator="devices", alone_rounds=5)}, "alone_rounds = 0"),
        ({"options": {"classes": ["x" * 100] * 100}}, "options are"),
    ],
)
def test_a_contradiction_names_its_setting(changes, named_setting):
    with pytest.raises(SettingsError, match=named_setting):
        settings(**changes).check()


def test_the_default_method_is_one_that_the_evaluator_can_serve():
    assert Contributions().method == "permutation-shapley"
    assert Contributions(evaluator="devices").method == "cosine-to-aggregate"
    chosen = Contributions(evaluator="devices", method="class-rows")
    assert chosen.method == "class-rows"
    assert msgspec.convert(msgspec.to_builtins(chosen), Contributions) == chosen


def test_what_rewards_may_be_set_to_is_accepted():
    tiers = ((0.0, 0.25), (0.5, 0.25), (1.0, 1.0))
    settings(rewards=Rewards(rule="tiers", tiers=tiers)).check()
    settings(
        contributions=Contributions(decay=0.9, alone_rounds=8),
        rewards=Rewards(
            mode="training-time",
            rule="sharing-coefficient",
            sharing=1.0,
            first_entitlement=0.5,
            caps={"pump-1": 0.125},
        ),
        rounds=Rounds(release_every=2),
    ).check()


def test_an_inference_only_device_may_be_granted_a_width_of_the_ladder():
    settings(rewards=Rewards(inference_only_width=0.125)).check()


@given(
    st.builds(
        Settings,
        fleet=st.just("plant"),
        model=st.text(),
        options=st.dictionaries(
            st.text(), st.one_of(st.integers(-(2**53), 2**53), st.text(), st.booleans()), max_size=5
        ),
        training=st.builds(Training, learning_rate=st.floats(1e-6, 1)),
        rounds=st.builds(Rounds, deadline_s=st.floats(0.1, 1e9), budget=st.integers(1, 10**6)),
    )
)
def test_settings_come_back_from_the_journal_as_they_were(given_settings):
    plain = msgspec.json.decode(msgspec.json.encode(msgspec.to_builtins(given_settings)))
    assert msgspec.convert(plain, Settings) == given_settings


def test_the_largest_options_fit_into_a_control_message():
    largest = {"classes": ["x" * 79] * 100}
    chosen = settings(options=largest).check()
    encode(ServerState(status=LinkStatus.ONLINE, options=chosen.options, spec_hash="0" * 64))


def test_a_task_carries_the_hyper_parameters_and_the_grid():
    found = settings(training=Training(steps=7, learning_rate=0.5)).training_settings()
    assert (found.steps, found.learning_rate, found.widths) == (7, 0.5, (0.25, 0.5, 0.75, 1.0))
