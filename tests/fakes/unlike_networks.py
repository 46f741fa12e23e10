"""Devices with networks of three architectures, and a little of the same three things for each."""

import numpy as np

from edge_agent.agent import OwnModel
from slimmable.samples import Samples

CLASSES = ["idle", "turning", "jammed"]
OPTIONS = {"input_shape": [80], "classes": CLASSES, "hidden": [16]}
DEVICES = ("fan", "lathe", "press", "saw", "drill")
NETWORKS = (
    OwnModel("mlp", OPTIONS | {"hidden": [16]}),
    OwnModel("mlp", OPTIONS | {"hidden": [32, 16]}),
    OwnModel("mlp", OPTIONS | {"hidden": [24, 24, 16]}),
)


def the_same_words(number, recordings=15):
    """What one device has of three things, under the names that all use."""
    rng = np.random.default_rng(number)
    of_thing = 2.5 * np.random.default_rng(99).normal(size=(3, 80)) / np.sqrt(80)
    recording = np.arange(4 * recordings) // 4
    thing = recording % 3
    x = of_thing[thing] + rng.normal(size=(len(thing), 80))
    return Samples(x.astype("f4"), thing, recording)


SAME = {name: the_same_words(number) for number, name in enumerate(DEVICES)}
