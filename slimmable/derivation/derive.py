"""Derive the width spec of a network. Imports torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from slimmable.derivation.algebra import Reason, Var, freeze, leaves
from slimmable.derivation.network import DerivedNetwork, build_network
from slimmable.derivation.plan import NetworkPlan, plan_network
from slimmable.derivation.rules.call import Dims
from slimmable.derivation.scaling import UNUSED, Scaling, ScalingSettings, choose_scaling
from slimmable.derivation.spec_terms import AxisReport, SpecTerms, report_axes
from slimmable.derivation.state_names import StateNames, name_state
from slimmable.derivation.tracing import trace_both
from slimmable.derivation.walk import Walked, walk
from slimmable.model import ModelInput
from slimmable.spec import WidthSpec


@dataclass(frozen=True)
class Derivation:
    """How a network scales, and its network at any width.

    Attributes:
        spec: of its state dict.
        report: one entry per dimension of each trained tensor, in the network's order.
        inputs: what it takes.
        output_shapes: of one sample, without the batch dimension.
        plan: its graphs.
        make: makes the network anew, for fresh weights; None where there was one network only.
    """

    spec: WidthSpec
    report: tuple[AxisReport, ...]
    inputs: tuple[ModelInput, ...]
    output_shapes: tuple[tuple[int, ...], ...]
    plan: NetworkPlan
    make: Callable[[], nn.Module] | None = None

    def build(self, width: float) -> DerivedNetwork:
        """Return the network of ``width``.

        It starts from slices of the traced network's weights. At full width it gets those of a
        newly made network instead, if the derivation knows how to make one: then the caller's seed
        decides.

        Raises:
            WidthError: the width is outside (0, 1].
        """
        fresh = self.make() if self.make is not None and width == 1.0 else None
        return build_network(self.plan, self.spec, width, fresh)


def derive(
    module: nn.Module,
    inputs: Sequence[ModelInput],
    settings: ScalingSettings | None = None,
    make: Callable[[], nn.Module] | None = None,
) -> Derivation:
    """Derive how a network scales; it is not changed.

    The network is traced in evaluation and in training mode. Both graphs are walked with one set
    of dimensions for the parameters, so the spec holds in both.

    Args:
        module: any network whose forward takes and returns tensors.
        inputs: their shapes, in the order of its arguments.
        settings: widths, rounding, which factor of a product scales.
        make: makes such a network anew.

    Raises:
        DerivationError: it cannot be traced, or holds what no spec can describe.
    """
    settings = settings or ScalingSettings()
    names = name_state(module)
    evaluation, training = trace_both(module, inputs)
    state: dict[str, Dims] = {
        name: tuple(map(Var, tensor.shape)) for name, tensor in names.tensors.items()
    }
    traces = (evaluation, training)
    walks = (
        walk(evaluation, state, names.canonical),
        walk(training, state, names.canonical),
    )
    norms = names.norms(traces)
    statistics = frozenset(f"{n}.{leaf}" for n in norms for leaf in ("running_mean", "running_var"))
    scaling = _scale(names, state, walks, settings)
    terms = SpecTerms(scaling)
    tensors = {name: terms.dims(state[name]) for name in sorted(names.state)}
    plan = plan_network(traces, walks, names, norms, state, terms)
    report = report_axes({name: state[name] for name in names.parameters}, scaling, settings)
    spec = WidthSpec(
        axes=tuple(terms.axes),
        tensors=tensors,
        statistics=statistics & set(tensors),
        frozen=tuple(sorted({line for entry in report if (line := entry.frozen_line)})),
        constants=frozenset(set(tensors) - set(names.parameters) - statistics),
        aliases={a: n for a, n in names.aliases.items() if n in tensors},
    )
    shapes = tuple(tuple(map(int, node.meta["val"].shape[1:])) for node in evaluation.results)
    return Derivation(spec, report, tuple(inputs), shapes, plan, make)


def _scale(
    names: StateNames,
    state: Mapping[str, Dims],
    walks: Sequence[Walked],
    settings: ScalingSettings,
) -> Scaling:
    read = {name for walked in walks for name in walked.read}
    for name, dims in state.items():
        if name not in read:
            for dim in dims:
                freeze(dim, UNUSED)
    trained = [state[name] for name in names.parameters]
    others = [dims for name, dims in state.items() if name not in names.parameters]
    for walked in walks:
        others += walked.tensors
        others += [tuple(patch.term for patch in patches) for patches in walked.patches.values()]
    baked: dict[Var, Reason] = {}
    for walked in walks:
        for term, reason in walked.baked:
            for leaf in leaves(term):
                baked.setdefault(leaf, reason)
    return choose_scaling(trained, others, settings, baked)
