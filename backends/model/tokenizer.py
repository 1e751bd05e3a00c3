"""Text to token ids and back: the tokenizer of a model folder, or a byte-level one of 259 entries for random models.

The byte-level one has no vocabulary to learn: ids 0 to 255 are the bytes of UTF-8, 256 begins and 257 ends a sequence,
258 pads. It round-trips any text. It is written as ``tokenizer.json`` so that load generators can use it too.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from backends.model.errors import ModelError, problem

TOKENIZER_FILE = "tokenizer.json"
SPECIAL_TOKENS = ("<|begin|>", "<|end|>", "<|pad|>")
END_ID = 257
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class TextTokenizer:
    """A tokenizer without the templates of chats: plain text in, plain text out."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    @property
    def vocabulary(self) -> int:
        """Number of entries, special ones included. A model may have more rows than that."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Token ids of a text; with ``special`` those that the folder's template puts around it."""
        return list(self._tokenizer.encode(text, add_special_tokens=special).ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, special ones left out. Ids beyond the vocabulary (a random model draws them) give none."""
        known = self.vocabulary
        return self._tokenizer.decode([token for token in token_ids if token < known])

    def write(self, folder: Path) -> None:
        """Write ``tokenizer.json`` and the ``tokenizer_config.json`` that transformers asks for beside it."""
        self._tokenizer.save(str(folder / TOKENIZER_FILE))
        begin, end, pad = SPECIAL_TOKENS
        names = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": begin, "eos_token": end, "pad_token": pad}
        (folder / "tokenizer_config.json").write_text(json.dumps(names, indent=2) + "\n")


class TextStream:
    """Text of a growing sequence, piece by piece. Bytes of an unfinished character are held back until it is whole."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._token_ids: list[int] = []  # since the last token that ended a character, that one included
        self._given = ""  # what of their text was given out already

    def push(self, token_ids: Sequence[int]) -> str:
        """The text that these tokens complete, perhaps none."""
        self._token_ids.extend(token_ids)
        text = self._tokenizer.decode(self._token_ids)
        if text.endswith(REPLACEMENT):  # it may yet become a character; what stands before it is final
            return self._give(text[:-1])
        piece = self._give(text)
        # One token stays as left context (some tokenizers strip the space of a first word): work stays constant.
        self._token_ids = self._token_ids[-1:]
        self._given = self._tokenizer.decode(self._token_ids)
        return piece

    def finish(self) -> str:
        """What was held back: bytes that never became a character, as a replacement character."""
        return self._give(self._tokenizer.decode(self._token_ids))

    def _give(self, text: str) -> str:
        piece = text[len(self._given) :]
        self._given += piece
        return piece


def byte_level_tokenizer() -> TextTokenizer:
    """The 259-entry tokenizer: a byte-pair vocabulary of the 256 bytes without any merge."""
    characters = _byte_characters()
    tokenizer = Tokenizer(models.BPE(vocab={character: byte for byte, character in enumerate(characters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL_TOKENS])
    return TextTokenizer(tokenizer)


def load_tokenizer(folder: Path) -> TextTokenizer:
    """The tokenizer of a model folder. Raises ``ModelError`` if there is none that can be read."""
    path = folder / TOKENIZER_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        message = f"cannot be read ({error}); download it, or send token ids instead of text"
        raise ModelError([problem(str(path), "", message)]) from error
    try:
        return TextTokenizer(Tokenizer.from_str(text))
    except Exception as error:  # the library raises plain Exception for whatever it cannot parse
        raise ModelError([problem(str(path), "", f"is no tokenizer: {error}; download it again")]) from error


def _byte_characters() -> list[str]:
    """The printable character that stands for each byte in byte-level vocabularies (the table of GPT-2): printable
    bytes of Latin-1 stand for themselves, the others, in order, for the characters from 256 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    characters, following = [], 256
    for byte in range(256):
        if byte in printable:
            characters.append(chr(byte))
        else:
            characters.append(chr(following))
            following += 1
    return characters
