"""The Merkle tree over records: against the definitions of RFC 9162, and against forgers."""

import hashlib

import pytest
from hypothesis import assume, given
from hypothesis import settings as search
from hypothesis import strategies as st

from journal.merkle import (
    EMPTY_ROOT,
    HASH_SIZE,
    Frontier,
    Tree,
    consistency_holds,
    inclusion_holds,
    leaf_hash,
    node_hash,
    root_of,
)

SIZES = st.integers(1, 300)


def records(count, salt=b""):
    return [hashlib.sha256(salt + bytes([n % 256, n // 256])).digest() for n in range(count)]


def tree_of(hashes):
    asked = []

    def between(first, end):
        asked.append(end - first)
        return hashes[first:end]

    tree = Tree(between)
    for one in hashes:
        tree.append(one)
    tree.asked = asked
    return tree


# --- the definitions of RFC 9162, word by word --------------------------------------------------


def sha(data):
    return hashlib.sha256(data).digest()


def split(n):
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def naive_root(leaves):
    if not leaves:
        return sha(b"")
    if len(leaves) == 1:
        return sha(b"\x00" + leaves[0])
    k = split(len(leaves))
    return sha(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:]))


def naive_path(m, leaves):
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*naive_path(m, leaves[:k]), naive_root(leaves[k:])]
    return [*naive_path(m - k, leaves[k:]), naive_root(leaves[:k])]


def naive_proof(m, leaves, known=True):
    if m == len(leaves):
        return [] if known else [naive_root(leaves)]
    k = split(len(leaves))
    if m <= k:
        return [*naive_proof(m, leaves[:k], known), naive_root(leaves[k:])]
    return [*naive_proof(m - k, leaves[k:], False), naive_root(leaves[:k])]


# --- roots ---------------------------------------------------------------------------------------


def test_the_root_of_nothing_is_the_hash_of_nothing():
    assert Frontier().root == EMPTY_ROOT == sha(b"")


def test_three_records_by_hand():
    a, b, c = records(3)
    expected = node_hash(node_hash(leaf_hash(a), leaf_hash(b)), leaf_hash(c))
    assert root_of([a, b, c]) == expected


@given(st.integers(0, 300))
def test_a_growing_tree_has_the_root_of_the_definition(count):
    hashes = records(count)
    assert tree_of(hashes).root == root_of(hashes) == naive_root(hashes)


@given(SIZES, st.data())
def test_earlier_roots_are_remembered(count, data):
    hashes = records(count)
    size = data.draw(st.integers(0, count))
    assert tree_of(hashes).root_at(size) == naive_root(hashes[:size])


@given(SIZES, st.data())
def test_another_record_anywhere_gives_another_root(count, data):
    hashes = records(count)
    place = data.draw(st.integers(0, count - 1))
    changed = [*hashes[:place], sha(hashes[place]), *hashes[place + 1 :]]
    assert root_of(changed) != root_of(hashes)


def test_a_node_never_passes_for_a_leaf():
    a, b = records(2)
    inner = node_hash(leaf_hash(a), leaf_hash(b))
    assert root_of([leaf_hash(a) + leaf_hash(b)]) != inner
    assert root_of([inner]) != inner


def test_a_checkpoint_of_many_records_costs_a_handful_of_hashes(monkeypatch):
    tree = tree_of(records(5000))
    calls = []

    def counted(left, right):
        calls.append(1)
        return node_hash(left, right)

    monkeypatch.setattr("journal.merkle.node_hash", counted)
    assert tree.root == naive_root(records(5000))
    assert len(calls) <= 13
    assert tree.asked == []


# --- proofs ---------------------------------------------------------------------------------------


@given(SIZES, st.data())
def test_inclusion_proofs_are_those_of_the_definition_and_hold(count, data):
    hashes = records(count)
    size = data.draw(st.integers(1, count))
    index = data.draw(st.integers(0, size - 1))
    path = tree_of(hashes).inclusion(index, size)
    assert list(path) == naive_path(index, hashes[:size])
    assert inclusion_holds(hashes[index], index, size, naive_root(hashes[:size]), path)


@given(SIZES, st.data())
def test_consistency_proofs_are_those_of_the_definition_and_hold(count, data):
    hashes = records(count)
    new = data.draw(st.integers(1, count))
    old = data.draw(st.integers(1, new))
    path = tree_of(hashes).consistency(old, new)
    assert list(path) == naive_proof(old, hashes[:new])
    roots = naive_root(hashes[:old]), naive_root(hashes[:new])
    assert consistency_holds(old, roots[0], new, roots[1], path)


def test_a_proof_asks_for_few_records_and_is_short():
    tree = tree_of(records(5000))
    assert len(tree.consistency(777, 4999)) <= 14
    assert sum(tree.asked) <= 3 * 64


def mutations(path):
    """Return a strategy for what a forger could make of a proof."""
    flipped = (
        st.tuples(st.integers(0, len(path) - 1), st.integers(0, 255)) if path else st.nothing()
    )
    return st.one_of(
        st.builds(lambda extra: (*path, extra), st.binary(min_size=32, max_size=32)),
        st.builds(lambda extra: (extra, *path), st.binary(min_size=32, max_size=32)),
        st.builds(lambda cut: path[: max(0, len(path) - cut)], st.integers(1, 3)),
        st.builds(lambda cut: path[cut:], st.integers(1, 3)),
        st.just(tuple(reversed(path))),
        flipped.map(
            lambda at: tuple(
                bytes([one[0] ^ max(1, at[1]), *one[1:]]) if n == at[0] else one
                for n, one in enumerate(path)
            )
        ),
        st.builds(lambda size: tuple(one[:size] for one in path), st.integers(0, 31)),
    )


@given(SIZES, st.data())
@search(max_examples=200)
def test_no_altered_inclusion_proof_holds(count, data):
    hashes = records(count)
    index = data.draw(st.integers(0, count - 1))
    tree = tree_of(hashes)
    path = tree.inclusion(index, count)
    forged = data.draw(mutations(path))
    assume(forged != path)
    assert not inclusion_holds(hashes[index], index, count, tree.root, forged)


@given(SIZES, st.data())
@search(max_examples=200)
def test_no_altered_consistency_proof_holds(count, data):
    hashes = records(count)
    old = data.draw(st.integers(1, count))
    tree = tree_of(hashes)
    path = tree.consistency(old, count)
    forged = data.draw(mutations(path))
    assume(forged != path)
    assert not consistency_holds(old, tree.root_at(old), count, tree.root, forged)


@given(SIZES, st.data())
def test_a_sound_proof_shows_no_other_record_place_size_or_root(count, data):
    hashes = records(count)
    index = data.draw(st.integers(0, count - 1))
    tree = tree_of(hashes)
    path, root = tree.inclusion(index, count), tree.root
    other = data.draw(st.integers(-1, count + 2))
    if other != index:
        assert not inclusion_holds(hashes[index], other, count, root, path)
        if 0 <= other < count:
            assert not inclusion_holds(hashes[other], index, count, root, path)
    assert not inclusion_holds(hashes[index], index, count, sha(root), path)
    assert not inclusion_holds(sha(hashes[index]), index, count, root, path)


@given(st.integers(2, 200), st.data())
def test_no_proof_joins_a_rewritten_history_to_the_old_one(count, data):
    """The server may choose any proof of its new tree: none reproduces the root of the old one."""
    old = data.draw(st.integers(1, count - 1))
    kept = records(count)
    place = data.draw(st.integers(0, old - 1))
    rewritten = [*kept[:place], *records(count - place, b"other")]
    tree = tree_of(rewritten)
    old_root, new_root = root_of(kept[:old]), tree.root
    for attempt in (
        tree.consistency(old, count),
        tree_of(kept).consistency(old, count),
        (*tree.consistency(old, count), old_root),
        (old_root, new_root),
    ):
        assert not consistency_holds(old, old_root, count, new_root, attempt)


def test_the_same_size_is_consistent_only_with_the_same_root():
    a, b = root_of(records(5)), root_of(records(5, b"x"))
    assert consistency_holds(5, a, 5, a, ())
    assert not consistency_holds(5, a, 5, b, ())
    assert not consistency_holds(5, a, 5, a, (a,))
    assert not consistency_holds(0, EMPTY_ROOT, 5, a, ())
    assert not consistency_holds(6, a, 5, a, ())


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_hash_of_another_length_is_refused(length):
    hashes = records(2)
    root = root_of(hashes)
    assert not inclusion_holds(hashes[0], 0, 2, root, (bytes(length),))
    assert not consistency_holds(1, root_of(hashes[:1]), 2, root, (bytes(length),))


def test_what_the_tree_never_held_is_refused():
    tree = tree_of(records(4))
    for wrong in (lambda: tree.inclusion(4, 4), lambda: tree.inclusion(-1, 4)):
        with pytest.raises(ValueError, match="is not among the first 4"):
            wrong()
    for wrong in (
        lambda: tree.inclusion(0, 5),
        lambda: tree.root_at(5),
        lambda: tree.consistency(1, 5),
    ):
        with pytest.raises(ValueError, match="the tree has 4 records, 5 were asked for"):
            wrong()
    for old, new in ((0, 3), (3, 2)):
        with pytest.raises(ValueError, match="no proof from"):
            tree.consistency(old, new)


def test_hashes_are_of_the_size_of_sha_256():
    assert len(EMPTY_ROOT) == len(root_of(records(7))) == HASH_SIZE
