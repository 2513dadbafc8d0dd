"""Speech into text: sound is decoded, becomes a spectrogram, and is listened to window by window.

Two engines do the listening, CTranslate2 (through faster-whisper) and Transformers; everything else is here once.
"""
