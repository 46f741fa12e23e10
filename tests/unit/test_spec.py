import json
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimmable.model import load_model
from slimmable.spec import AxisTerm, ConcatTerm, ProductTerm, SpecError, WidthSpec
from slimmable.width import Axis

widths = st.floats(0.01, 1.0)
# Changing either breaks every fleet in the field: devices refuse tasks of another spec hash.
CNN1D_HASH = "4bb5b6463a7102607889982f6f5e5b92cf574ed678bfef86231000da1ba3fb01"
CNN1D_OPTIONS = {"sensors": 6, "length": 100, "classes": ["a", "b", "c"]}


@st.composite
def specs(draw):
    """Draw a spec with one tensor of nested products and concatenations."""
    axes = []

    def axis(*, may_scale):
        scales = may_scale and draw(st.booleans())
        axes.append(Axis(draw(st.integers(1, 7)), scales, draw(st.integers(1, 3))))
        return AxisTerm(len(axes) - 1)

    def term(depth, *, may_scale=True):
        kind = draw(st.sampled_from("vps" if depth else "v"))
        if kind == "v":
            return axis(may_scale=may_scale)
        count = draw(st.integers(1, 3))
        if kind == "s":
            return ConcatTerm(tuple(term(depth - 1, may_scale=may_scale) for _ in range(count)))
        scaling = draw(st.integers(0, count - 1))
        return ProductTerm(
            tuple(term(depth - 1, may_scale=may_scale and i == scaling) for i in range(count))
        )

    dims = tuple(term(2) for _ in range(draw(st.integers(0, 2))))
    return WidthSpec(tuple(axes), {"w": dims})


def naive_kept(term, axes, width):
    """List the kept positions of a dimension, written as slowly and plainly as possible."""
    if isinstance(term, AxisTerm):
        return [i for i in range(axes[term.axis].size) if i < axes[term.axis].keep(width)]
    parts = [(naive_kept(p, axes, width), len(naive_kept(p, axes, 1.0))) for p in term.parts]
    if isinstance(term, ConcatTerm):
        positions = [(k, i) for k, (_, full) in enumerate(parts) for i in range(full)]
        return [n for n, (k, i) in enumerate(positions) if i in parts[k][0]]
    positions = product(*(range(full) for _, full in parts))
    return [
        n
        for n, place in enumerate(positions)
        if all(i in kept for i, (kept, _) in zip(place, parts, strict=True))
    ]


@given(specs(), widths)
def test_products_and_concatenations_keep_what_a_naive_listing_keeps(spec, width):
    kept = [indices.tolist() for indices in spec.indices("w", width)]
    assert kept == [naive_kept(term, spec.axes, width) for term in spec.dims("w")]
    assert spec.shape("w", width) == tuple(len(indices) for indices in kept)


@given(specs(), widths, widths)
def test_a_narrower_slice_lies_inside_a_wider_one(spec, one, other):
    narrow, wide = sorted((one, other))
    within = spec.indices_within("w", narrow, wide)
    outer, inner = spec.indices("w", wide), spec.indices("w", narrow)
    for positions, outer_kept, inner_kept in zip(within, outer, inner, strict=True):
        assert outer_kept[positions].tolist() == inner_kept.tolist()


@given(specs())
def test_the_full_width_keeps_every_index(spec):
    for indices in spec.indices("w", 1.0):
        assert indices.tolist() == list(range(len(indices)))


@given(specs(), widths)
def test_a_spec_survives_its_json_form(spec, width):
    again = WidthSpec.from_json(spec.to_json())
    assert again.to_json() == spec.to_json()
    assert again.spec_hash == spec.spec_hash
    assert again.shape("w", width) == spec.shape("w", width)


def test_flattened_channels_keep_the_pixels_of_the_first_channels():
    spec = WidthSpec(
        (Axis(4, scales=True), Axis(3, scales=False)),
        {"w": (ProductTerm((AxisTerm(0), AxisTerm(1))),)},
    )
    assert spec.indices("w", 0.5)[0].tolist() == [0, 1, 2, 3, 4, 5]


def test_heads_inside_fused_rows_keep_the_first_heads_of_each_part():
    axes = (Axis(3, scales=False), Axis(2, scales=True), Axis(2, scales=False))
    spec = WidthSpec(axes, {"w": (ProductTerm((AxisTerm(0), AxisTerm(1), AxisTerm(2))),)})
    assert spec.indices("w", 0.5)[0].tolist() == [0, 1, 4, 5, 8, 9]


def test_concatenated_channels_keep_a_prefix_of_each_segment():
    spec = WidthSpec(
        (Axis(4, scales=True), Axis(2, scales=True)),
        {"w": (ConcatTerm((AxisTerm(0), AxisTerm(1))),)},
    )
    assert spec.indices("w", 0.5)[0].tolist() == [0, 1, 4]


def test_the_hash_of_the_built_in_cnn_never_changes_silently():
    assert load_model("cnn1d", CNN1D_OPTIONS).spec.spec_hash == CNN1D_HASH


def small(**changes):
    made = {
        "axes": (Axis(8, scales=True, granule=2), Axis(3, scales=False)),
        "tensors": {"a": (AxisTerm(0), AxisTerm(1)), "b": (AxisTerm(0),)},
        "statistics": frozenset({"b"}),
    }
    return WidthSpec(**{**made, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"axes": (Axis(8, scales=True, granule=4), Axis(3, scales=False))},
        {"axes": (Axis(8, scales=False, granule=2), Axis(3, scales=False))},
        {"axes": (Axis(9, scales=True, granule=2), Axis(3, scales=False))},
        {"tensors": {"a": (AxisTerm(1), AxisTerm(0)), "b": (AxisTerm(0),)}},
        {"tensors": {"a": (AxisTerm(0), AxisTerm(1)), "b": (AxisTerm(1),)}},
        {"tensors": {"a2": (AxisTerm(0), AxisTerm(1)), "b": (AxisTerm(0),)}},
        {"statistics": frozenset()},
        {"frozen": ("a: dimension 1 feeds an unknown operator",)},
    ],
)
def test_any_change_of_convention_changes_the_hash(changes):
    assert small(**changes).spec_hash != small().spec_hash


def test_two_conventions_with_equal_shapes_have_different_hashes():
    axes = (Axis(2, scales=True), Axis(2, scales=False))
    outer = WidthSpec(axes, {"w": (ProductTerm((AxisTerm(0), AxisTerm(1))),)})
    inner = WidthSpec(axes, {"w": (ProductTerm((AxisTerm(1), AxisTerm(0))),)})
    assert outer.shape("w", 0.5) == inner.shape("w", 0.5)
    assert outer.spec_hash != inner.spec_hash


def test_the_order_in_which_axes_and_tensors_were_declared_does_not_matter():
    swapped = small(
        axes=(Axis(3, scales=False), Axis(8, scales=True, granule=2), Axis(5, scales=True)),
        tensors={"b": (AxisTerm(1),), "a": (AxisTerm(1), AxisTerm(0))},
    )
    assert swapped.spec_hash == small().spec_hash


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tensors": {"a": (AxisTerm(2),)}, "statistics": frozenset()}, "axis 2"),
        ({"statistics": frozenset({"c"})}, "statistics"),
        ({"tensors": {"b": (ProductTerm(()),)}}, "without parts"),
        ({"tensors": {"b": (ProductTerm((AxisTerm(0), AxisTerm(0))),)}}, "two factors"),
        (
            {"tensors": {"b": (ConcatTerm((ProductTerm((AxisTerm(0), AxisTerm(0))),)),)}},
            "two factors",
        ),
    ],
)
def test_a_spec_that_contradicts_itself_is_refused(changes, message):
    with pytest.raises(SpecError, match=message):
        small(**changes)


GOOD = json.loads(small().to_json())


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b"null",
        b"[" * 100_000,
        json.dumps({**GOOD, "format": 2}).encode(),
        json.dumps({**GOOD, "axes": [[8, True]]}).encode(),
        json.dumps({**GOOD, "axes": [[8, 1, 2], [3, False, 1]]}).encode(),
        json.dumps({**GOOD, "axes": [[0, True, 2], [3, False, 1]]}).encode(),
        json.dumps({**GOOD, "axes": [[float("inf"), True, 2], [3, False, 1]]}).encode(),
        json.dumps({**GOOD, "tensors": {"b": [["q", 0]]}}).encode(),
        json.dumps({**GOOD, "tensors": {"b": [["v", "0"]]}}).encode(),
        json.dumps({**GOOD, "tensors": {"b": [["v", 0.0]]}}).encode(),
        json.dumps({**GOOD, "tensors": []}).encode(),
        json.dumps({**GOOD, "statistics": [1]}).encode(),
    ],
)
def test_a_document_that_is_no_spec_is_refused(document):
    with pytest.raises(SpecError):
        WidthSpec.from_json(document)


@given(st.binary(max_size=60))
def test_garbled_bytes_are_never_a_spec(document):
    with pytest.raises(SpecError):
        WidthSpec.from_json(document)


@given(st.data())
def test_a_garbled_spec_is_refused_or_is_a_sound_spec(data):
    document = bytearray(small().to_json())
    place = data.draw(st.integers(0, len(document) - 1))
    document[place] = data.draw(st.integers(0, 255))
    try:
        spec = WidthSpec.from_json(bytes(document))
    except SpecError:
        return
    for name in spec.tensors:
        assert all(np.diff(indices).min(initial=1) > 0 for indices in spec.indices(name, 0.5))


def test_parameters_are_counted_without_statistics():
    assert small().parameters == ("a",)
    assert small().parameter_count(1.0) == 24
    assert small().parameter_count(0.25) == 6


def test_an_unknown_tensor_is_named():
    with pytest.raises(SpecError, match="'x' is not in the width spec"):
        small().shape("x", 1.0)
    with pytest.raises(SpecError, match="does not lie inside"):
        small().indices_within("a", 1.0, 0.5)


def with_roles(**roles):
    axes = (Axis(4, scales=True),)
    tensors = {"weight": (AxisTerm(0),), "mean": (AxisTerm(0),), "offset": (AxisTerm(0),)}
    return WidthSpec(axes, tensors, **roles)


def test_constants_and_aliases_survive_json_and_count_in_the_hash():
    spec = with_roles(constants=frozenset({"offset"}), aliases={"head": "weight"})
    again = WidthSpec.from_json(spec.to_json())
    assert again.constants == {"offset"}
    assert again.aliases == {"head": "weight"}
    assert again.spec_hash == spec.spec_hash != with_roles().spec_hash
    assert spec.parameters == ("mean", "weight")


def test_a_spec_without_constants_and_aliases_keeps_its_form():
    assert b"constants" not in with_roles().to_json()
    assert b"aliases" not in with_roles().to_json()


@pytest.mark.parametrize(
    "roles",
    [
        {"constants": frozenset({"absent"})},
        {"constants": frozenset({"mean"}), "statistics": frozenset({"mean"})},
        {"aliases": {"head": "absent"}},
        {"aliases": {"mean": "weight"}},
    ],
)
def test_roles_of_tensors_that_do_not_fit_are_refused(roles):
    with pytest.raises(SpecError):
        with_roles(**roles)
