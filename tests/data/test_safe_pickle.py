"""The reader of pickles: what data is made of comes out as Python reads it, and nothing else is ever run."""

import builtins
import collections
import contextlib
import os
import re
import subprocess
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from data.pickle_files import Calling, Plain, by_persistent_id, pickled, python2_batch, unpickled
from halrp_np.data.safe_pickle import read_pickle
from halrp_np.errors import DataError

PROTOCOLS = range(6)
KEYS = st.one_of(st.text(), st.binary(), st.integers(), st.booleans(), st.none())
LEAVES = st.one_of(KEYS, st.floats(allow_nan=False), st.integers(min_value=-(2**200), max_value=2**200))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner), st.lists(inner).map(tuple), st.dictionaries(KEYS, inner)),
    max_leaves=20,
)
ARRAYS = arrays.arrays(
    st.one_of(
        arrays.integer_dtypes(endianness="?"),
        arrays.unsigned_integer_dtypes(endianness="?"),
        arrays.boolean_dtypes(),
        arrays.floating_dtypes(endianness="?"),
        arrays.complex_number_dtypes(endianness="?"),
    ),
    arrays.array_shapes(min_dims=0, max_dims=4, min_side=0),
)


@given(value=VALUES, protocol=st.sampled_from(PROTOCOLS))
def test_plain_values_come_out_as_python_reads_them(value: Any, protocol: int) -> None:
    found = read_pickle(pickled(value, protocol), "here")
    assert found == value
    assert repr(found) == repr(value), "and of the same types"


@given(array=ARRAYS, protocol=st.sampled_from(PROTOCOLS), columns=st.booleans())
def test_arrays_come_out_as_python_reads_them(array: np.ndarray, protocol: int, columns: bool) -> None:
    array = np.asfortranarray(array) if columns else array
    content = pickled({"one": array, "again": array}, protocol)
    found, expected = read_pickle(content, "here"), unpickled(content)
    for key in ("one", "again"):
        np.testing.assert_array_equal(found[key], array)
        native = expected[key].dtype.newbyteorder("=")
        assert (found[key].dtype, found[key].shape) == (native, expected[key].shape)
    assert found["one"] is found["again"]


def test_python_2_with_its_strings_as_bytes() -> None:
    images = np.arange(24, dtype=np.uint8).reshape(2, 12)
    found = read_pickle(python2_batch(images, [7, 3], "fine_labels"), "here")
    assert list(found) == [b"data", b"fine_labels"]
    np.testing.assert_array_equal(found[b"data"], images)
    assert found[b"fine_labels"] == [7, 3]
    assert read_pickle(b"(lp0\nI1\naI01\naL5L\naS'a\\x00\"b'\np1\nag1\naVc\\u0107\na.", "here") == [
        1,
        True,
        5,
        b'a\x00"b',
        b'a\x00"b',
        "cć",
    ]


# ---- what is refused ------------------------------------------------------------------------------------------------

SYSTEM = f"{os.system.__module__}.system"
HOSTILE = {
    "a call of the shell": (lambda p: pickled(Calling(os.system, "echo >OWNED"), p), SYSTEM),
    "eval": (lambda p: pickled(Calling(eval, "open('OWNED', 'w')"), p), r"(builtins|__builtin__)\.eval"),
    "a process": (lambda p: pickled({"data": [Calling(subprocess.Popen, "true")]}, p), r"(subprocess|commands)\.Popen"),
    "an import": (lambda p: pickled(Calling(__import__, "this"), p), r"(builtins|__builtin__)\.__import__"),
    "a function alone": (lambda p: pickled([1, os.system], p), SYSTEM),
    "an attribute": (lambda p: pickled(Calling(getattr, 1, "real"), p), r"(builtins|__builtin__)\.getattr"),
    "an instance": (lambda p: pickled({"data": Plain()}, p), r"pickle_files\.Plain|copy_?reg\._reconstructor"),
    "an ordered dict": (lambda p: pickled(collections.OrderedDict(a=1), p), r"collections\.OrderedDict"),
    "a set": (lambda p: pickled({1, 2}, p), r"a set|(builtins|__builtin__)\.set"),
    "a scalar of NumPy": (lambda p: pickled(np.float64(1), p), r"multiarray\.scalar"),
    "an array of objects": (lambda p: pickled(np.array([1, None]), p), "an array of 'O8', which is no plain number"),
    "records": (lambda p: pickled(np.zeros(2, [("a", "i4")]), p), "an array of 'V4'"),
    "a persistent id": (lambda p: by_persistent_id("key", p), "a persistent id"),
    "a bomb in an array": (
        lambda p: pickled(np.array([Calling(os.system, "echo >OWNED")], object), p),
        f"an array of 'O8'|{SYSTEM}",
    ),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_pickles_are_refused_and_nothing_runs(
    kind: str, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make, message = HOSTILE[kind]
    content = make(protocol)
    imported: list[str] = []
    monkeypatch.setattr(builtins, "__import__", lambda name, *_rest, **_named: imported.append(name))
    try:
        with pytest.raises(DataError) as caught:
            read_pickle(content, "DIR/train")
    finally:
        monkeypatch.undo()
    assert imported == []
    assert list(tmp_path.iterdir()) == []
    assert str(caught.value).startswith("DIR/train: expected a pickle of arrays, lists")
    assert "nothing of it was run. Do not trust this file" in str(caught.value)
    assert re.search(message, str(caught.value))


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


BY_HAND = {
    "the classic": (b"cos\nsystem\n(S'echo >OWNED'\ntR.", r"the global os\.system"),
    "after harmless work": (b"\x80\x02](K\1K\2e0cposix\nsystem\nU\4trueQ.", r"the global posix\.system"),
    "an instance by name": (b"(S'true'\nios\nsystem\n.", r"the global os\.system"),
    "an instance by object": (b"(cnumpy\nndarray\nK\1o.", "an instance of a class"),
    "a new object": (b"\x80\x02cnumpy\nndarray\n)\x81.", "an instance of a class"),
    "a new object by keys": (b"\x80\x04cnumpy\nndarray\n)}\x92.", "an instance of a class"),
    "a global from the stack": (b"\x80\x04" + short("os") + short("system") + b"\x93.", r"the global os\.system"),
    "a dotted global": (b"\x80\x04" + short("numpy") + short("dtype.mro") + b"\x93.", r"the global numpy\.dtype\.mro"),
    "an extension code": (b"\x80\x02\x82\1.", "an extension code"),
    "an extension code of two bytes": (b"\x80\x02\x83\1\0.", "an extension code"),
    "an extension code of four bytes": (b"\x80\x02\x84\1\0\0\0.", "an extension code"),
    "a buffer from outside": (b"\x80\x05\x97.", "a buffer outside the file"),
    "a call of a value": (b"K\1)R.", "no function by name"),
    "a call of a call": (b"cnumpy\ndtype\nU\2u1\x85R)R.", "no function by name"),
    "a call without a tuple": (b"cnumpy\ndtype\n]R.", "no function by name"),
    "an array of a subclass": (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\nK\0\x85U\1b\x87R.",
        "no array needs",
    ),
    "a call of the class": (b"cnumpy\nndarray\nK\3\x85R.", r"a call of numpy\.ndarray"),
    "another encoding": (b"c_codecs\nencode\nX\1\0\0\0aU\6base64\x86R.", r"a call of _codecs\.encode"),
    "bytes of a number": (b"c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R.", "a call of __builtin__.bytes"),
    "a state for a dict": (b"}}b.", "the state of an object"),
    "a state for a name": (b"cnumpy\nndarray\n}b.", "the state of an object"),
    "a type with fields": (b"cnumpy\ndtype\nU\2u1\x85R(K\3U\1|NU\1aNK\0K\0K\0tb.", "no plain number"),
}


@pytest.mark.parametrize("kind", BY_HAND)
def test_every_way_to_more_than_data_is_closed(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content, message = BY_HAND[kind]
    with pytest.raises(DataError, match=f"^FILE: .*{message}.*nothing of it was run"):
        read_pickle(content, "FILE")
    assert list(tmp_path.iterdir()) == []


ARRAY = pickled(np.arange(6, dtype=np.uint8).reshape(2, 3))
DEEP = b"(" * 50 + b"t" * 50
DAMAGED = {
    "empty": b"",
    "cut": ARRAY[:-9],
    "without an end": pickled([1])[:-1],
    "two values": b"K\1K\2.",
    "nothing": b".",
    "a mark": b"(.",
    "a name": b"cnumpy\nndarray\n.",
    "a list without a beginning": b"K\1l.",
    "a pop too many": b"0.",
    "an item without a list": b"K\1K\2a.",
    "an unknown instruction": b"\xff.",
    "a future protocol": b"\x80\x06N.",
    "a memo that was never kept": b"h\7.",
    "a length beyond the file": b"\x80\x04\x8e" + b"\xff" * 8 + b".",
    "a negative length": b"T\xff\xff\xff\xffabc.",
    "a key that is a list": b"}]K\1s.",
    "a key that is a deep tuple": b"}" + DEEP + b"K\1s.",
    "a key without a value": b"(K\1d.",
    "an integer of words": b"Ione\n.",
    "a number of too many digits": b"I" + b"9" * 5000 + b"\n.",
    "a string that is code": b"S__import__('os')\n.",
    "a string without an end": b"S'a\n.",
    "a global that is no string": b"\x80\x04K\1K\2\x93.",
    "a name in a list": b"](cnumpy\ndtype\ne.",
    "a type of elements in a dict": b"}K\1cnumpy\ndtype\nU\2u1\x85Rs.",
    "an item in an array": ARRAY[:-1] + b"K\0K\1s.",
    "no UTF-8": b"X\1\0\0\0\xff.",
    "an array larger than its bytes": ARRAY.replace(b"K\x02K\x03\x86", b"K\x09K\x09\x86"),
    "an array of negative size": ARRAY.replace(b"K\x02K\x03\x86", b"J\xfe\xff\xff\xffJ\xfd\xff\xff\xff\x86"),
    "an array without a shape": ARRAY.replace(b"K\x02K\x03\x86", b"K\x02K\x030"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damage_is_named(kind: str) -> None:
    assert DAMAGED[kind] != ARRAY
    with pytest.raises(DataError, match=r"^FILE: expected a (whole )?pickle"):
        read_pickle(DAMAGED[kind], "FILE")


BOMBS = {
    "a key that takes for ever to hash": b"}K\1\x85" + b"2\x86" * 100 + b"K\1s.",
    "a key that ends the process": b"}K\1" + b"\x85" * 1_000_000 + b"K\1s.",
    "a memo of gigabytes": b"Nr\xff\xff\xff\xff",
    "bytes that are not there": b"\x80\x05\x8e" + b"\0" * 5 + b"\1\0\0.",
    "zeros that are not there": b"\x80\x05\x96" + b"\0" * 5 + b"\1\0\0.",
    "a frame that is not there": b"\x80\x04\x95" + b"\0" * 5 + b"\1\0\0N",
    "a list of lists without end": b"]" + b"2(22e" * 100 + b"(.",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_small_files_take_little_time_and_memory(kind: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"^FILE: expected a whole pickle"):
            read_pickle(BOMBS[kind], "FILE")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1e6 + 200 * len(BOMBS[kind])


def test_what_is_nested_deep_or_holds_itself_is_only_data() -> None:
    deep = read_pickle(b"]" * 100_000 + b"a" * 99_999 + b".", "FILE")
    assert len(deep) == 1
    itself = read_pickle(b"]2a.", "FILE")
    assert itself[0] is itself


def read_or_refused(content: bytes) -> None:
    """Read a pickle, which may be refused by the one error that users see, and by no other."""
    with contextlib.suppress(DataError):
        read_pickle(content, "FILE")


@settings(max_examples=300)
@given(
    start=st.sampled_from([ARRAY, pickled({"data": [1, "a", b"b", (2.5, None)]}, 4), b""]),
    cuts=st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=3)), max_size=4),
)
def test_no_bytes_do_anything_but_a_value_or_a_clear_error(start: bytes, cuts: list[tuple[int, bytes]]) -> None:
    content = bytearray(start)
    for place, change in cuts:
        content[place : place + len(change)] = change
    read_or_refused(bytes(content))


@given(content=st.binary(max_size=60))
def test_random_bytes_too(content: bytes) -> None:
    read_or_refused(content + b".")


def test_the_real_files(shared_dir: Path) -> None:
    for name in ("cifar-100-python/meta", "cifar-10-batches-py/test_batch"):
        path = shared_dir / "data" / name
        if not path.is_file():
            pytest.skip(f"no {name} in the folder beside the repository")
        content = path.read_bytes()
        found, expected = read_pickle(content, name), unpickled(content)
        assert found.keys() == expected.keys()
        for key, value in found.items():
            np.testing.assert_array_equal(value, expected[key])
