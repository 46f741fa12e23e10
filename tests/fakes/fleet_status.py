"""What a server and its devices leave retained, for whoever asks how the fleet is."""

from broker.messages import (
    Birth,
    DeviceSummary,
    LinkStatus,
    Participation,
    ServerState,
    Standing,
    Summary,
)
from broker.topics import (
    DeviceSays,
    DownTopic,
    ServerSays,
    ServerTells,
    ServerTopic,
    UpTopic,
)

STATE = ServerState(status=LinkStatus.ONLINE, model="cnn1d", notice="devices hold their width")
STATE_TOPIC = ServerTopic(ServerTells.STATE)
SUMMARY_TOPIC = ServerTopic(ServerTells.SUMMARY)


def summary(*devices, more=0, **changed):
    lines = tuple(
        DeviceSummary(device=device, link=link, participation=Participation.TAKES_PART)
        for device, link in devices
    )
    values = {
        "phase": "training",
        "detail": "round 7: 2 of 3 devices answered",
        "round": 7,
        "rounds": 12,
        "score": 0.7123,
        "online": sum(link == "online" for _, link in devices),
        "devices": lines,
        "more": more,
    }
    return Summary(**(values | changed))


def birth(**changed):
    return Birth(
        **({"status": LinkStatus.ONLINE, "agent": "slimfleet 0", "can_train": True} | changed)
    )


def standing(**changed):
    values = {
        "participation": Participation.TAKES_PART,
        "reason": "width 0.5: predicted 1.2 s of 3 s",
        "training_width": 0.5,
        "entitled_width": 0.375,
        "deployed_width": 0.25,
        "running_width": 0.0625,
        "width_reasons": {
            "training": "width 0.5: predicted 1.2 s of 3 s",
            "entitled": "1.40 times the average contribution",
            "deployed": "first release",
            "running": "not confirmed",
        },
        "rounds_taken": 11,
        "rounds_missed": 1,
        "last_drop": "late: 0.4 s after the deadline",
        "contribution": 0.125,
        "method": "permutation-shapley",
    }
    return Standing(**(values | changed))


def birth_topic(device):
    return UpTopic(device, DeviceSays.BIRTH)


def standing_topic(device):
    return DownTopic(device, ServerSays.STANDING)


def fleet_messages():
    """Return (topic, message) of three devices: one takes part, one is paused, one cannot."""
    paused = standing(
        participation=Participation.SUSPENDED,
        reason="bearing is being changed",
        training_width=0.0,
        entitled_width=0.0,
        deployed_width=0.0,
        running_width=0.0,
        width_reasons={},
        rounds_missed=0,
        contribution=None,
    )
    cannot = standing(
        participation=Participation.CANNOT,
        reason="no width fits its memory",
        training_width=0.0,
        width_reasons={},
        rounds_taken=0,
        rounds_missed=0,
    )
    return [
        (STATE_TOPIC, STATE),
        (SUMMARY_TOPIC, summary(("pump-1", "online"), ("pump-2", "late"), ("pump-3", "offline"))),
        (birth_topic("pump-1"), birth(emulated="raspberry-pi-4")),
        (birth_topic("pump-2"), birth()),
        (birth_topic("pump-3"), birth(can_train=False)),
        (standing_topic("pump-1"), standing()),
        (standing_topic("pump-2"), paused),
        (standing_topic("pump-3"), cannot),
    ]
