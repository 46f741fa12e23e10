"""Programs that answer in several threads while a real agent's slots change beneath them."""

import gc
import hashlib
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest

from edge_agent import Predictor
from edge_agent.slots import ModelSlots
from tests.fakes.toy_onnx import FEATURES, linear, manifest_of

ROOT = Path(__file__).parents[2]
X = np.random.default_rng(0).standard_normal((450, FEATURES)).astype(np.float32)
X[:, 0] = 1.0
ASKERS = 4
DEPLOYMENTS = 20
ROLLED_BACK = 4  # every so many deployments


def model_of(number):
    """Return a regression model that answers its number in every value."""
    weights = np.zeros((FEATURES, 3))
    weights[0, :] = number
    onnx = linear(weights)
    return onnx, manifest_of(onnx, round=number, task="regression", classes=())


MODELS = [model_of(number) for number in range(1, 6)]
NUMBERS = {manifest.digest: manifest.round for _, manifest in MODELS}


def deploy(slots, pair, counter, *, confirm=True):
    onnx, manifest = pair
    slots.install(manifest, onnx, counter)
    slots.activate(manifest.digest, counter)
    if confirm:
        slots.confirm()


class Asker(threading.Thread):
    """Asks in a loop and keeps what was wrong with an answer."""

    def __init__(self, predictor, stop):
        super().__init__()
        self.predictor, self.stop = predictor, stop
        self.answers, self.models, self.wrong = 0, set(), []

    def run(self):
        try:
            while not self.stop.is_set():
                self.ask()
        except Exception as error:  # noqa: BLE001 - of whatever kind: a dropped call
            self.wrong.append(error)

    def ask(self):
        prediction = self.predictor.predict(X)  # longer than a part: several runs of one model
        # A regression's values are the outputs: each row must be of the model that is named.
        found = np.unique(prediction.value)
        if found.tolist() != [NUMBERS[prediction.model.digest]]:
            self.wrong.append((prediction.model.digest, found))
        self.answers += 1
        self.models.add(prediction.model.digest)


@pytest.fixture
def slots(tmp_path):
    return ModelSlots(tmp_path / "agent" / "slots")


@pytest.mark.parametrize("auto_reload", [True, False])
def test_no_call_is_dropped_or_mixed_while_models_are_deployed_and_rolled_back(
    tmp_path, slots, auto_reload
):
    deploy(slots, MODELS[0], 1)
    predictor = Predictor(tmp_path / "agent", auto_reload=auto_reload, batch_size=200)
    sessions = [weakref.ref(predictor._loaded.session)]
    stop = threading.Event()
    askers = [Asker(predictor, stop) for _ in range(ASKERS)]
    for asker in askers:
        asker.start()
    try:
        for counter in range(2, 2 + DEPLOYMENTS):
            chosen = MODELS[counter % len(MODELS)]
            deploy(slots, chosen, counter, confirm=bool(counter % ROLLED_BACK))
            if not counter % ROLLED_BACK:
                slots.revert("rolled back")
            if auto_reload:
                predictor.predict(X[:1])
            else:
                predictor.reload_if_changed()
            assert predictor.digest
            sessions.append(weakref.ref(predictor._loaded.session))
    finally:
        stop.set()
        for asker in askers:
            asker.join()
    assert [asker.wrong for asker in askers] == [[]] * ASKERS
    assert all(asker.answers for asker in askers)
    assert set().union(*(asker.models for asker in askers)) <= NUMBERS.keys()
    predictor.reload_if_changed()
    current = slots.current()
    assert predictor.digest == current.digest
    gc.collect()
    alive = {id(ref()) for ref in sessions if ref() is not None}
    assert alive <= {id(predictor._loaded.session)}


def test_a_model_that_cannot_be_run_stops_nobody(tmp_path, slots, caplog):
    deploy(slots, MODELS[0], 1)
    predictor = Predictor(tmp_path / "agent", auto_reload=True)
    stop = threading.Event()
    askers = [Asker(predictor, stop) for _ in range(ASKERS)]
    for asker in askers:
        asker.start()
    try:
        for counter in range(2, 12):
            broken = f"no model {counter}".encode()
            pair = (broken, manifest_of(broken)) if counter % 2 else MODELS[counter % 5]
            deploy(slots, pair, counter)
            predictor.predict(X[:1])
    finally:
        stop.set()
        for asker in askers:
            asker.join()
    assert [asker.wrong for asker in askers] == [[]] * ASKERS
    assert "the model before goes on" in caplog.text


PROGRAM = """
import sys
import numpy as np
from edge_agent import Predictor

predictor = Predictor(sys.argv[1], auto_reload=True)
x = np.ones((3, 4), np.float32)
print("ready", flush=True)
seen = []
while not seen or seen[-1] != sys.argv[2]:
    prediction = predictor.predict(x)
    assert len(np.unique(prediction.value)) == 1
    assert prediction.value[0, 0] == prediction.model.round
    if not seen or seen[-1] != prediction.model.digest:
        seen.append(prediction.model.digest)
print(*seen, flush=True)
"""


def test_a_program_of_its_own_process_follows_the_agent(tmp_path, slots):
    deploy(slots, MODELS[0], 1)
    last = model_of(99)
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "agent"), last[1].digest],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        try:
            assert program.stdout.readline() == "ready\n"
            for counter in range(2, 20):
                deploy(slots, MODELS[counter % 5], counter)
            deploy(slots, last, 20)
            seen = program.stdout.readline().split()
        finally:
            program.stdout.close()
            program.wait(timeout=60)
    assert program.returncode == 0
    assert seen[0] == hashlib.sha256(MODELS[0][0]).hexdigest()
    assert seen[-1] == last[1].digest
    assert set(seen) <= {*NUMBERS, last[1].digest}
