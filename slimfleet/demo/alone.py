"""How good each person's model would be without the fleet: trained on that person's data alone.

``python -m slimfleet.demo.alone SETTINGS.json`` writes one JSON line per person. Same network at
full width, same hyper-parameters, as many steps as the fleet's rounds together.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np


def main(settings_file: str, target: str) -> None:
    """Train every person alone and write person -> accuracy on the unseen person."""
    import torch

    from slimfleet import watch
    from slimmable.evaluation import calibrate, initial_state, outputs
    from slimmable.model import load_model
    from slimmable.training import TrainingRule, train

    torch.set_num_threads(1)
    os.nice(10)  # the fleet comes first
    settings = json.loads(Path(settings_file).read_text())
    model = load_model(settings["model"], settings["options"])
    unseen = watch.person_samples(watch.UNSEEN_PERSON)
    found = {}
    for person in settings["people"]:
        own = watch.person_samples(person)
        rule = TrainingRule(
            steps=settings["steps"],
            batch_size=settings["batch_size"],
            learning_rate=settings["learning_rate"],
            momentum=settings["momentum"],
            weight_decay=settings["weight_decay"],
            widths=(1.0,),
        )
        start = initial_state(model, settings["seed"])
        rng = np.random.default_rng((settings["seed"], person))
        trained, _ = train(model, start, 1.0, own, rule, rng)
        state = {**trained, **calibrate(model, 1.0, trained, own.x)}
        found[person] = model.task.score(outputs(model, 1.0, state, unseen.x), unseen.y)
    temporary = Path(target + ".part")
    temporary.write_text(json.dumps(found))
    temporary.rename(target)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
