"""Whole campaigns in memory and in virtual time, through the real coordinator and agents."""

import pytest

from tests.fakes.small_fleet import DeviceSettings, SmallFleet, toy_settings
from tests.fakes.virtual_clock import simulated


@simulated
async def test_one(tmp_path):
    async with SmallFleet(tmp_path, {"press": DeviceSettings(), "lathe": DeviceSettings(trainer={"widest": 0.5})}) as fleet:
        await fleet.until(fleet.finished)
        for e in fleet.events():
            pass
        print(fleet.confirmed(), fleet.retained_blocks())
        print(len(fleet.broker.log))
