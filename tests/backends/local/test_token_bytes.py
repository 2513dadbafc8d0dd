"""A token's bytes, whatever it is a part of."""

import pytest

from illm.backends.local.token_bytes import TokenBytes

tokenizers = pytest.importorskip("tokenizers", reason="needs the extra `local`")
transformers = pytest.importorskip("transformers", reason="needs the extra `local`")

TEXT = "Zürich \t naïve 🧑‍🚀 日本\x00\x7f\xad"


def ids_of(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


def test_byte_level_tokens(byte_tokenizer):
    tokenizer = byte_tokenizer()
    told = TokenBytes(tokenizer)
    ids = ids_of(tokenizer, TEXT)
    assert b"".join(map(told, ids)) == TEXT.encode()
    assert all(len(told(token)) == 1 for token in ids)
    assert told.text(ids_of(tokenizer, "ü")[0]) == "\ufffd"
    assert told(tokenizer.eos_token_id) == b"</s>"
    assert told(10**6) == b""


def test_sentence_piece_tokens():
    words = ["<unk>", "</s>", "\u2581Hello", "\u2581", "w", "\u00e9", *(f"<0x{byte:02X}>" for byte in range(256))]
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            vocab={word: at for at, word in enumerate(words)}, merges=[], byte_fallback=True, unk_token="<unk>"
        )
    )
    parts = tokenizers.decoders
    backend.decoder = parts.Sequence([parts.Replace("\u2581", " "), parts.ByteFallback(), parts.Fuse()])
    told = TokenBytes(transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>"))
    assert [told(token) for token in range(1, 6)] == [b"</s>", b" Hello", b" ", b"w", "é".encode()]
    assert b"".join(told(6 + byte) for byte in "日".encode()) == "日".encode()
    assert told.text(2) == " Hello"


def test_a_tokenizer_of_another_kind_is_asked_for_its_text():
    class Other:
        def decode(self, ids, **options):
            return f"<{ids[0]}>"

    assert TokenBytes(Other())(7) == b"<7>"
