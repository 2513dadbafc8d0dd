"""A tiny random Whisper that knows three languages and both tasks, as a directory that loads like a real one."""

from pathlib import Path

import pytest

SPECIALS = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|en|>",
    "<|de|>",
    "<|fr|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|startoflm|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|notimestamps|>",
)


@pytest.fixture(scope="session")
def tiny_whisper():
    """Return a function that writes one into a directory and returns it with its tokenizer."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")

    def write(directory: Path, *, multilingual: bool = True, seed: int = 5):
        times = [f"<|{step * 0.02:.2f}|>" for step in range(1501)]
        alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
        vocab = {token: index for index, token in enumerate([*alphabet, *SPECIALS, *times])}
        backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[]))
        backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = tokenizers.decoders.ByteLevel()
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=backend,
            eos_token="<|endoftext|>",
            pad_token="<|endoftext|>",
            additional_special_tokens=list(SPECIALS[1:]),
        )
        torch.manual_seed(seed)
        start, end = vocab["<|startoftranscript|>"], vocab["<|endoftext|>"]
        config = transformers.WhisperConfig(
            vocab_size=len(vocab),
            d_model=32,
            encoder_layers=1,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            num_mel_bins=80,
            max_target_positions=64,
            init_std=0.4,
            bos_token_id=end,
            eos_token_id=end,
            pad_token_id=end,
            decoder_start_token_id=start,
        )
        model = transformers.WhisperForConditionalGeneration(config).eval()
        settings = {
            "no_timestamps_token_id": vocab["<|notimestamps|>"],
            "prev_sot_token_id": vocab["<|startofprev|>"],
            "decoder_start_token_id": start,
            "eos_token_id": end,
            "pad_token_id": end,
            "max_length": 64,
            "max_initial_timestamp_index": 50,
            "suppress_tokens": [],
            "begin_suppress_tokens": [vocab["Ġ"], end],
            "is_multilingual": multilingual,
            "alignment_heads": [[0, 1], [1, 2]],
        }
        if multilingual:
            settings["lang_to_id"] = {token: vocab[token] for token in SPECIALS[2:5]}
            settings["task_to_id"] = {task: vocab[f"<|{task}|>"] for task in ("translate", "transcribe")}
        model.generation_config = transformers.GenerationConfig(**settings)
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        transformers.WhisperFeatureExtractor().save_pretrained(directory)
        return model, tokenizer

    return write
