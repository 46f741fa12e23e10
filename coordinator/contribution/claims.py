"""What a device says of itself: how much data it has, and that it came. Pure.

Both look at no update, so a device that lies or sends nothing of use is paid all the same. They are
the measures of IAFL (Wu et al., "Incentive-Aware Federated Learning with Training-Time Model
Rewards", ICLR 2024, section 5), and a baseline.
"""

from coordinator.contribution.evidence import Evidence, Scores


def data_size(evidence: Evidence) -> Scores:
    """Score each device by its share of the samples that the round's devices claim to have."""
    sizes = {device: max(0, evidence.samples.get(device, 0)) for device in evidence.devices}
    total = sum(sizes.values())
    return Scores(
        {device: size / total if total else 0.0 for device, size in sizes.items()},
        "data-size",
        evaluations=0,
    )


def participation(evidence: Evidence) -> Scores:
    """Score each device 1 for the round; the ledger counts the rounds."""
    return Scores(dict.fromkeys(evidence.devices, 1.0), "participation", evaluations=0)
