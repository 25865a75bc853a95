"""What is read from a question, and how texts are cut: pure functions."""

import time

import pytest

from remanence.search.query import (
    LONGEST_PIECE,
    STOP_WORDS,
    Asked,
    asked,
    names,
    parted,
    pieces,
    segmented,
    spelled_date,
    timed,
    with_parts,
)
from remanence.wire.sqlite import Database


@pytest.fixture(scope="module")
def tokens():
    return Database(":memory:").tokens


def test_stop_words_are_dropped_and_the_others_stemmed(tokens):
    told = asked("What did Caroline say about running?", tokens)
    assert told.terms == ("carolin", "sai", "run")
    assert {"what", "caroline", "running"} <= told.words


def test_a_question_of_stop_words_alone_keeps_them(tokens):
    assert asked("Who are you?", tokens).terms == ("who", "ar", "you")


def test_every_term_counts_once(tokens):
    assert asked("run running runs", tokens).terms == ("run",)


@pytest.mark.parametrize(
    ("text", "when", "mine"),
    [
        ("When did we meet?", True, False),
        ("what day is it", True, False),
        ("How many weeks did I work on it?", True, True),
        ("whenever you like", False, False),
        ("Tell me more", False, True),
        ("The iMac is here", False, False),
    ],
)
def test_a_question_tells_what_it_is_about(text, when, mine, tokens):
    told = asked(text, tokens)
    assert (told.when, told.mine) == (when, mine)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        '"',
        "a AND OR NOT NEAR(b, 3) col:c* ^d -e + {f} (",
        "'; DROP TABLE documents; --",
        "\x00\x01\x02 nul \x00 inside",
        "\ud800 half a letter \udfff",
        "🎉🎉👨‍👩‍👧 🇨🇭",
        "機械学習について教えて",
        "שלום עולם مرحبا بالعالم",
        "สวัสดีชาวโลก",
        "é" * 1000,
        "a" * 100_000,
        "\n".join(["word"] * 20_000),
        "%s %d {} {0} \\ /",
    ],
)
def test_any_text_is_a_question(text, tokens):
    told = asked(text, tokens)
    assert isinstance(told, Asked)
    assert all(term for term in told.terms)


def test_a_long_text_is_read_in_part(tokens):
    text = " ".join(f"word{number}" for number in range(20_000))
    begin = time.perf_counter()
    assert len(asked(text, tokens).terms) < 3_000
    assert time.perf_counter() - begin < 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("FinanceTool", "Finance Tool"),
        ("getHTTPResponse2", "get HTTP Response2"),
        ("my_findFlights()", "my_find Flights()"),
        ("APIs PDFs NASA hello", "APIs PDFs NASA hello"),
    ],
)
def test_joined_names_are_parted(name, words):
    assert parted(f"the {name}.") == f"the {words}."


def test_joined_names_are_found_whole_and_by_their_words(tokens):
    held = tokens(with_parts("europeanCountries"))
    assert held == tokens("europeanCountries european countries")
    assert set(asked("EuropeanCountries", tokens).terms) == set(held)


def test_joining_without_end_costs_no_time():
    begun = time.perf_counter()
    for text in ("aB" * 50_000, "A" * 100_000, "a" * 100_000 + "B", "AAaa" * 25_000, "_" * 100_000):
        assert len(with_parts(text)) < 3 * len(text)
    assert time.perf_counter() - begun < 2


def test_ideographs_are_found_alone_and_in_pairs(tokens):
    held = set(tokens(segmented("東京タワーに行った")))
    for question in ("東京", "京", "タワー", "行った"):
        assert set(asked(question, tokens).terms) & held
    assert not set(asked("大阪", tokens).terms) & held


def test_an_emoji_is_a_word(tokens):
    assert asked("🎉", tokens).terms == asked("great🎉", tokens).terms[1:]
    assert asked("🎉", tokens).terms != asked("🎂", tokens).terms


def test_accents_make_no_difference(tokens):
    assert asked("Zoë café", tokens).terms == asked("Zoe cafe", tokens).terms


def test_long_texts_are_cut_and_each_piece_says_who_and_when():
    text = " ".join(f"w{number}" for number in range(250))
    cut = pieces(text, speaker="Ann", caption="a red boat", date="2023-05-08T13:56:00")
    assert len(cut) == 3
    assert all(piece.startswith("Ann ") and piece.endswith("a red boat 8 may 2023") for piece in cut)
    inner = [piece.removeprefix("Ann ").removesuffix(" a red boat 8 may 2023").split() for piece in cut]
    assert [len(words) for words in inner] == [LONGEST_PIECE, LONGEST_PIECE, 250 - 2 * LONGEST_PIECE]
    assert [word for words in inner for word in words] == text.split()


def test_an_endless_caption_is_cut_like_the_text():
    cut = pieces("boat " * 300, speaker="Ann " * 1000, caption="apple " * 1000, date="x" * 1000)
    assert len(cut) == 12
    assert max(len(piece.split()) for piece in cut) <= 2 * LONGEST_PIECE
    assert "apple" not in cut[0]


def test_a_text_without_words_is_one_piece():
    assert pieces("") == [""]
    assert pieces("", speaker="Ann") == ["Ann"]


@pytest.mark.parametrize(
    ("text", "spelled"),
    [("2023-05-08", "8 may 2023"), ("2024-12-31T00:00:00Z", "31 december 2024"), ("spring", "spring"), ("", "")],
)
def test_dates_are_spelled_as_people_write_them(text, spelled):
    assert spelled_date(text) == spelled


@pytest.mark.parametrize(
    ("question", "speaker", "named"),
    [
        ("What does Caroline like?", "Caroline", True),
        ("what does caroline like?", "Caroline Smith", True),
        ("What does Carol like?", "Caroline", False),
        ("Will it rain?", "Will", False),
        ("Anything?", "", False),
    ],
)
def test_a_speaker_is_named_by_a_word_of_the_name(question, speaker, named, tokens):
    assert names(asked(question, tokens), speaker) is named


@pytest.mark.parametrize(
    ("text", "found"),
    [("I went yesterday", True), ("in March", True), ("in 1999", True), ("the 3rd", True), ("marching on", False)],
)
def test_time_expressions(text, found):
    assert timed(text) is found


def test_stop_words_are_lower_case_words():
    assert all(word == word.lower() and word.isalpha() for word in STOP_WORDS)
