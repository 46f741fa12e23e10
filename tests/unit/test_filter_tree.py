"""Subscribers of a topic, found without asking each of them."""

from hypothesis import given
from hypothesis import strategies as st

from broker.filter_tree import FilterTree
from broker.permissions import matches

LEVELS = st.lists(st.sampled_from(["a", "b", "$c", ""]), min_size=1, max_size=4)
FILTERS = st.lists(st.sampled_from(["a", "b", "$c", "+", ""]), min_size=1, max_size=4)


@given(
    st.lists(st.tuples(FILTERS, st.booleans(), st.integers(0, 2)), max_size=8),
    st.lists(st.integers(0, 7), max_size=4),
    LEVELS,
)
def test_a_filter_tree_finds_whom_comparing_every_filter_finds(filters, removed, levels):
    tree, kept = FilterTree(), {}
    for parts, deeper, subscriber in filters:
        filter_ = "/".join([*parts, "#"] if deeper else parts)
        tree.add(filter_, subscriber)
        kept[filter_, subscriber] = None
    for index in removed:
        if index < len(filters):
            parts, deeper, subscriber = filters[index]
            filter_ = "/".join([*parts, "#"] if deeper else parts)
            tree.remove(filter_, subscriber)
            kept.pop((filter_, subscriber), None)
    topic = "/".join(levels)
    expected = {subscriber for filter_, subscriber in kept if matches(filter_, topic)}
    assert tree.subscribers(topic) == expected


def test_a_filter_tree_keeps_nothing_of_what_was_taken_back():
    tree = FilterTree()
    tree.add("a/b/#", "someone")
    tree.add("a/+", "someone")
    tree.remove("a/b/#", "someone")
    tree.remove("a/+", "someone")
    tree.remove("a/never", "someone")
    assert not tree._root.below
