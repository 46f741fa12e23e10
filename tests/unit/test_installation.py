"""Releases that come faster than a device installs them."""

import asyncio

from broker.envelope import Verifier, generate_signing_key, public_key_of
from broker.messages import Deployment, DeploymentOrder, InstallState, Release, SignedEnvelope
from edge_agent.actions import Install, RemoveModel
from edge_agent.installation import ModelInstaller
from edge_agent.probe import ProbeResult
from edge_agent.slots import ModelSlots
from tests.fakes.toy_onnx import always

ENVELOPE = SignedEnvelope(kind="deployment", payload=b"", signatures=())
SOUND = ProbeResult(ok=True, latency_s=0.001, detail="answered")


def order(counter, model):
    _, manifest = model
    deployment = Deployment(
        fleet="plant",
        device="press",
        counter=counter,
        digest=manifest.digest,
        reason="",
        expires_at=9e9,
    )
    release = Release(
        fleet="plant", version=counter, manifest=manifest, created_at=0.0, expires_at=9e9
    )
    return Install(deployment, release, DeploymentOrder(deployment=ENVELOPE))


async def nobody(_report):
    """Nobody is told."""


def installer_that(attempt, folder):
    verifier = Verifier.trusting([public_key_of(generate_signing_key())], "plant", "press")
    return ModelInstaller(ModelSlots(folder), verifier, {}, "npz", attempt=attempt)


async def test_a_release_that_comes_while_another_is_tried_is_installed_after_it(tmp_path):
    first, second = always(1), always(2)
    begun, running, later = asyncio.Event(), [], []

    async def attempt(path, _manifest):
        running.append(installer.installed().digest)
        if path.parent.name == second[1].digest:
            begun.set()
        else:
            install = installer.install(order(2, second), second[0], nobody)
            later.append(asyncio.ensure_future(install))
            await asyncio.wait([asyncio.ensure_future(begun.wait())], timeout=0.2)
        return SOUND

    installer = installer_that(attempt, tmp_path)
    reports = [await installer.install(order(1, first), first[0], nobody), await later[0]]
    assert [report.state for report in reports] == [InstallState.CONFIRMED] * 2
    assert running == ["", first[1].digest]
    assert installer.installed().digest == second[1].digest


async def test_a_release_that_was_overtaken_is_refused_and_hides_nothing(tmp_path):
    async def attempt(_path, _manifest):
        return SOUND

    installer = installer_that(attempt, tmp_path)
    first, second = always(1), always(2)
    newer = await installer.install(order(2, second), second[0], nobody)
    older = await installer.install(order(1, first), first[0], nobody)
    assert (older.state, older.code) == (InstallState.REFUSED, "older-counter")
    assert installer.installed().report == newer
    removed = await installer.remove(RemoveModel(order(1, first).deployment))
    assert (removed.state, removed.code) == (InstallState.REFUSED, "older-counter")
    assert installer.installed().digest == second[1].digest
