"""The byte-level tokenizer, tokenizers of folders, and text that arrives piece by piece."""

from pathlib import Path

import pytest

pytest.importorskip("tokenizers", reason="tokenizers is not installed: text is NOT tested; pip install 'kvsim[engine]'")

from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from backends.model.errors import ModelError
from backends.model.tokenizer import END_ID, TextStream, TextTokenizer, byte_level_tokenizer, load_tokenizer

BYTES = byte_level_tokenizer()


def test_ids_of_the_byte_level_tokenizer_are_the_bytes_of_utf_8() -> None:
    text = "Grüße, 世界\n\x00~"
    assert BYTES.encode(text) == list(text.encode())
    assert BYTES.vocabulary == 259


@settings(max_examples=60)
@given(st.text())
def test_any_text_survives_the_round_trip(text: str) -> None:
    assert BYTES.decode(BYTES.encode(text)) == text


def test_special_tokens_and_ids_beyond_the_vocabulary_have_no_text() -> None:
    assert BYTES.decode([256, 72, 105, 5000, END_ID, 258]) == "Hi"


@settings(max_examples=60)
@given(st.text(), st.lists(st.integers(1, 4), min_size=1))
def test_pieces_of_a_stream_join_to_the_text_and_never_break_a_character(text: str, sizes: list[int]) -> None:
    stream, token_ids, pieces = TextStream(BYTES), BYTES.encode(text), []
    for turn in range(len(token_ids)):
        size = sizes[turn % len(sizes)]
        pieces.append(stream.push(token_ids[:size]))
        token_ids = token_ids[size:]
    pieces.append(stream.finish())
    assert "".join(pieces) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


def test_an_unfinished_character_is_held_back_until_it_is_whole() -> None:
    stream = TextStream(BYTES)
    first, second, third = "世".encode()
    assert [stream.push([ord("a"), first]), stream.push([second]), stream.push([third])] == ["a", "", "世"]


def test_bytes_that_never_become_a_character_come_out_in_the_end() -> None:
    stream = TextStream(BYTES)
    assert stream.push([0xE4]) == ""
    assert stream.finish() == "\ufffd"


def test_spaces_before_words_survive_a_stream() -> None:
    """Tokenizers in the style of SentencePiece drop the space of a text's first word, and only of that."""
    vocabulary = {"<unk>": 0, "▁hello": 1, "▁wide": 2, "▁world": 3}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Metaspace()
    words.decoder = decoders.Metaspace()
    stream = TextStream(TextTokenizer(words))
    assert [stream.push([token]) for token in (1, 2, 3)] == ["hello", " wide", " world"]


def test_a_written_tokenizer_is_loaded_again(tmp_path: Path) -> None:
    BYTES.write(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.encode("né") == BYTES.encode("né")
    assert loaded.vocabulary == 259


def test_transformers_loads_the_written_tokenizer(tmp_path: Path) -> None:
    """Load generators use it through transformers."""
    transformers = pytest.importorskip("transformers")
    BYTES.write(tmp_path)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert loaded("né")["input_ids"] == BYTES.encode("né")
    assert loaded.eos_token_id == END_ID


@pytest.mark.parametrize(("text", "message"), [(None, "cannot be read"), ("{}", "is no tokenizer")])
def test_a_folder_without_a_usable_tokenizer_is_refused(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ModelError, match=message):
        load_tokenizer(tmp_path)
