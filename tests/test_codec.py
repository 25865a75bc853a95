"""What bytes a value becomes: exact both ways, and nothing damaged is read as something else."""

import enum
import hashlib
import json
import math
import pickle  # noqa: TID251 - to show that it is refused
import sys
import time
import tracemalloc
import zlib
from collections import OrderedDict, namedtuple
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import remanence
from remanence.errors import CorruptRecord, InvalidArgument, InvalidValue, ValueTooLarge
from remanence.wire import codec

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
OP = st.text("ABCXYZabcxyz0189_-", min_size=22, max_size=22)
HLC = st.integers(0, 10**16 - 1)


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    LOW = 1


class Word(str, enum.Enum):  # noqa: UP042 - as agents still write it
    YES = "yes"


class Odd(int, enum.Enum):
    """Its `.value` is not its int content."""

    ONE = 1

    def __new__(cls, number: int) -> "Odd":
        member = int.__new__(cls, number)
        member._value_ = "another"
        return member


class Real(float):
    pass


def same(left: Any, right: Any) -> bool:
    """Equal, types and signs of zero included."""
    return repr(left) == repr(right)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


# --- check --------------------------------------------------------------------------------------


@given(JSON)
def test_what_json_holds_comes_back_exactly(value: Any) -> None:
    data = codec.encode(value)
    assert same(codec.decode(data, "k"), value)
    assert same(json.loads(data), value)
    assert b" " not in data or " " in str(value)
    assert same(codec.unpack(codec.pack(value), "k"), value)


@pytest.mark.parametrize(
    ("value", "place", "why"),
    [
        ({"a": [0, 1, 2, math.nan]}, 'settings["a"][3]', "NaN"),
        ([math.inf], "settings[0]", "infinite"),
        (-math.inf, "settings ", "infinite"),
        ({"a": {1: 2}}, 'settings["a"] ', "key of type int"),
        ({None: 1}, "settings ", "key of type NoneType"),
        ({True: 1}, "settings ", "key of type bool"),
        ({Level.LOW: 1}, "settings ", "key of type Level"),
        ([b"x"], "settings[0]", "type bytes"),
        (({1},), "settings[0]", "type set"),
        ([object()], "settings[0]", "type object"),
        ([Colour.RED], "settings[0]", "type Colour"),
        (["\ud800"], "settings[0]", "surrogate"),
        ("\udfff", "settings ", "surrogate"),
        ({"é\ud800": 1}, "settings ", "surrogate"),
    ],
)
def test_what_json_cannot_hold_is_refused_by_place(value: Any, place: str, why: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        codec.check(value, path="settings")
    assert isinstance(caught.value, TypeError)
    assert str(caught.value).startswith(place) and why in str(caught.value)
    for encode in (codec.encode, codec.pack):
        with pytest.raises(InvalidValue, match=why):
            encode(value, path="settings")


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ((1, (2,)), [1, [2]]),
        (namedtuple("Pair", "a b")(1, 2), [1, 2]),
        (OrderedDict(a=1), {"a": 1}),
        (Level.LOW, 1),
        (Word.YES, "yes"),
        ({Word.YES: Odd.ONE}, {"yes": 1}),
        (Real(2.5), 2.5),
        ([10**4000], [10**4000]),
    ],
)
def test_subclasses_are_their_content(value: Any, stored: Any) -> None:
    codec.check(value)
    assert same(codec.decode(codec.encode(value), "k"), stored)
    assert same(codec.unpack(codec.pack(value), "k"), stored)


def test_a_cycle_is_named_as_one() -> None:
    value: dict[str, Any] = {"a": [1]}
    value["a"].append(value)
    with pytest.raises(InvalidValue, match="contains itself"):
        codec.check(value)
    shared = [1]
    codec.check([shared, shared])


@pytest.mark.parametrize("depth", [1, 64, 500])
def test_depth_is_a_limit(depth: int) -> None:
    data = codec.encode(nested(depth), depth=depth)
    assert codec.decode(data, "k") == nested(depth)
    assert codec.unpack(codec.pack(nested(depth), depth=depth), "k") == nested(depth)
    with pytest.raises(ValueTooLarge, match="nested too deeply"):
        codec.encode(nested(depth + 1), depth=depth)


def test_what_the_stack_cannot_hold_is_too_large_and_not_a_crash() -> None:
    with pytest.raises(ValueTooLarge):
        codec.check(nested(100_000), depth=10**9)


def test_a_number_of_too_many_digits_is_refused_on_the_way_in() -> None:
    codec.check(10**4300 - 1)
    with pytest.raises(ValueTooLarge, match="digits"):
        codec.check([10**4300])
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(640)
    try:
        with pytest.raises(ValueTooLarge, match="digits"):
            codec.encode(10**1000)
    finally:
        sys.set_int_max_str_digits(before)


def test_the_limit_is_in_bytes() -> None:
    assert codec.encode("é" * 10, limit=22) == ('"' + "é" * 10 + '"').encode()
    with pytest.raises(ValueTooLarge, match="22 bytes"):
        codec.encode("é" * 10, limit=21)
    with pytest.raises(ValueTooLarge):
        codec.pack("é" * 10, limit=20)


def test_a_small_graph_that_writes_out_enormous_ends_early() -> None:
    value: list[Any] = ["x" * 1000]
    for _ in range(40):
        value = [value, value]
    start = time.perf_counter()
    with pytest.raises(ValueTooLarge, match="larger than the limit"):
        codec.encode(value, limit=1 << 20)
    assert time.perf_counter() - start < 2


def test_no_message_holds_a_value() -> None:
    for bad in ({"a": "s3cret\ud800"}, ["s3cret", {1}], {"k": b"s3cret"}):
        with pytest.raises(InvalidValue) as caught:
            codec.encode(bad)
        assert "s3cret" not in str(caught.value)
    for raw in (b'"s3cret', b'{"a":"s3cret\xff"}', b'["s3cret"'):
        with pytest.raises(CorruptRecord, match="memory:x") as corrupt:
            codec.decode(raw, "memory:x")
        error: BaseException | None = corrupt.value
        assert "s3cret" not in str(error)
        assert error is not None and error.__cause__ is None and error.__suppress_context__


# --- decode -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[1,2",
        b"\xff",
        b'"\xff"',
        b'"\\ud800"',
        b'{"\\ud800":1}',
        b'"\xed\xa0\x80"',
        b"NaN",
        b"[Infinity]",
        b"1e999",
        b"1" * 5000,
        b"01",
        b'"a\x00b"',
        b"{}x",
        b"\x00abc",
        b"[" * 1_000_000,
        b"[" * 600 + b"]" * 600,
        b'{"a":' * 600 + b"1" + b"}" * 600,
    ],
)
def test_damaged_text_is_corrupt_and_names_the_key(raw: bytes) -> None:
    with pytest.raises(CorruptRecord, match="memory:x"):
        codec.decode(raw, "memory:x")


@given(st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()))
@example(b'["\\ud800"]')
@example(b"1e999")
def test_whatever_is_read_can_be_stored_again(raw: bytes) -> None:
    try:
        value = codec.decode(raw, "k")
    except CorruptRecord:
        return
    assert same(codec.decode(codec.encode(value), "k"), value)


def test_other_spellings_are_read() -> None:
    assert codec.decode(b' {"a" : "\\ud83d\\ude00", "a": 2}\n', "k") == {"a": 2}
    assert codec.decode(b"\xef\xbb\xbf[1]", "k") == [1]
    assert codec.decode('["é"]'.encode("utf-16"), "k") == ["é"]
    many = [[] for _ in range(5000)]
    assert codec.decode(codec.encode(many), "k") == many


# --- stamps -------------------------------------------------------------------------------------


@given(st.dictionaries(st.text(), JSON, min_size=1, max_size=3), OP, HLC)
def test_a_stamp_goes_in_and_comes_out(document: Any, op_id: str, hlc: int) -> None:
    body = codec.encode(document)
    raw = codec.stamped(body, op_id, hlc)
    assert raw[:10] == b'{"stamp":"' and raw[48:50] == b'",'
    assert raw[10:48] == f"{op_id}{hlc:016d}".encode()
    assert codec.split(raw) == (body, op_id, hlc)
    assert {**codec.decode(raw, "k"), **document} == {"stamp": f"{op_id}{hlc:016d}", **document}
    twice = codec.stamped(raw, op_id, hlc)
    assert codec.split(twice)[0] == raw


@given(JSON, OP, HLC)
def test_a_packed_body_carries_a_stamp_behind_its_flag(document: Any, op_id: str, hlc: int) -> None:
    body = codec.pack(document, threshold=8)
    raw = codec.stamped(body, op_id, hlc)
    assert raw[0] == body[0] and raw[1:39] == f"{op_id}{hlc:016d}".encode()
    assert codec.split(raw) == (body, op_id, hlc)


GOOD = b'{"stamp":"' + b"A" * 22 + b"0" * 15 + b'1","value":1}'


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b'{"value":1}',
        b"\x00",
        b"\x02" + GOOD[10:48],
        b"\x00" + GOOD[10:47],
        b"[1]",
        GOOD[1:],
        GOOD.replace(b'A"', b'+"').replace(b"AA", b"A+", 1),
        GOOD.replace(b"01", b"0x"),
        GOOD.replace(b'",', b'";'),
        GOOD.replace(b'{"stamp"', b'{"Stamp"'),
        GOOD.replace(b"AA0", b"A00").replace(b"1", b"\xb2"),
        b"\x01" + "é".encode() * 19,
    ],
)
def test_what_others_wrote_is_the_body_itself(raw: bytes) -> None:
    assert codec.split(raw) == (raw, hashlib.sha1(raw).hexdigest()[:22], 0)
    assert codec.split(GOOD) == (b'{"value":1}', "A" * 22, 1)


@pytest.mark.parametrize(
    ("body", "op_id", "hlc"),
    [
        (b"{}", "A" * 22, 1),
        (b"{ }", "A" * 22, 1),
        (b"[1]", "A" * 22, 1),
        (b"", "A" * 22, 1),
        (b"\x02a", "A" * 22, 1),
        (b'{"a":1}', "A" * 21, 1),
        (b'{"a":1}', "A" * 21 + "é", 1),
        (b'{"a":1}', "A" * 22, 10**16),
        (b'{"a":1}', "A" * 22, -1),
    ],
)
def test_what_could_not_be_split_again_is_not_stamped(body: bytes, op_id: str, hlc: int) -> None:
    with pytest.raises(InvalidArgument):
        codec.stamped(body, op_id, hlc)


def test_a_foreign_body_with_spaces_is_stamped_and_restored() -> None:
    body = b'{ "value": 1 }'
    assert codec.split(codec.stamped(body, "A" * 22, 5)) == (body, "A" * 22, 5)


def test_the_body_of_an_attribute() -> None:
    assert codec.state_body(b"[1]", 17) == b'{"value":[1],"last_modified":17}'


# --- pack ---------------------------------------------------------------------------------------


def test_large_documents_are_compressed_where_it_helps() -> None:
    text = {"text": "a" * 5000}
    assert codec.pack({"text": "a" * 100})[0] == codec.RAW
    assert codec.pack(text)[0] == codec.ZLIB and len(codec.pack(text)) < 200
    assert codec.pack(text, threshold=10_000)[0] == codec.RAW
    noise = [hash(str(n)) for n in range(500)]
    assert codec.unpack(codec.pack(noise), "k") == noise
    random = zlib.compress(bytes(range(256)) * 3).hex().encode().decode()
    assert codec.pack(random, threshold=0)[0] in (codec.RAW, codec.ZLIB)
    assert codec.pack("ab", threshold=0)[0] == codec.RAW


@given(JSON, st.data())
def test_a_cut_or_lengthened_body_is_corrupt(document: Any, data: st.DataObject) -> None:
    body = codec.pack(document, threshold=data.draw(st.sampled_from([0, 1 << 20])))
    cut = body[: data.draw(st.integers(0, len(body) - 1))]
    for damaged in (cut, body + b"\x00"):
        with pytest.raises(CorruptRecord, match="memory:x"):
            codec.unpack(damaged, "memory:x")


def test_a_compressed_body_is_whole_or_corrupt() -> None:
    body = codec.pack("word " * 1000)
    for damaged in (*(body[:size] for size in range(1, len(body))), body + b"\x00", body + body[1:]):
        with pytest.raises(CorruptRecord):
            codec.unpack(damaged, "k")


@given(st.binary(max_size=60), st.sampled_from([b"", b"\x00", b"\x01"]))
def test_no_bytes_do_anything_but_decode_or_be_corrupt(raw: bytes, flag: bytes) -> None:
    try:
        value = codec.unpack(flag + raw, "k")
    except CorruptRecord:
        return
    codec.check(value, depth=512)


@pytest.mark.parametrize(
    "payload",
    [
        b"\xd6\xff\x00\x00\x00\x00",
        b"\xc4\x01a",
        b"\xca\x7f\xc0\x00\x00",
        b"\xc7\x01\x05a",
        b"\xc7\x01\x01x",
        b"\xc7\x03\x01 12",
        b"\x81\x01\x02",
        b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        b"\xa1\xff",
        b"\xc1",
    ],
)
def test_msgpack_that_is_no_json_is_corrupt(payload: bytes) -> None:
    with pytest.raises(CorruptRecord):
        codec.unpack(b"\x00" + payload, "k")


def test_a_bomb_is_noticed_while_it_grows() -> None:
    bomb = b"\x01" + zlib.compress(b"\xdb\x0b\xeb\xc2\x00" + b"a" * 200_000_000, 9)
    tracemalloc.start()
    with pytest.raises(CorruptRecord, match="grows past"):
        codec.unpack(bomb, "k", 1 << 20)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    with pytest.raises(CorruptRecord, match="larger than the limit"):
        codec.unpack(b"\x00" + b"\xc0" * 100, "k", 99)


class Boom:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle was loaded",))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_are_never_loaded(protocol: int) -> None:
    data = pickle.dumps(Boom(), protocol)
    for body in (data, b"\x00" + data, b"\x01" + zlib.compress(data)):
        with pytest.raises(CorruptRecord) as caught:
            codec.unpack(body, "memory:x")
        if protocol >= 2:
            assert "pickle" in str(caught.value)
    with pytest.raises(CorruptRecord, match="0x80"):
        codec.unpack(b"\x80\x04", "k")


def test_the_serializer_of_the_third_seed() -> None:
    serializer = remanence.MemorySerializer(compression_threshold=64)
    small, large = {"a": 1}, {"a": "word " * 50, "n": 10**30}
    assert serializer.serialize(small)[0] == 0 and serializer.serialize(large)[0] == 1
    for value in (small, large):
        assert serializer.deserialize(serializer.serialize(value)) == value
    with pytest.raises(InvalidValue):
        serializer.serialize({"a": object()})
    assert remanence.MemorySerializer().compression_threshold == 1024


def test_encoders_would_be_silent_without_the_check() -> None:
    assert msgspec.json.encode([math.nan, {1: b"x"}]) == b'[null,{"1":"eA=="}]'
