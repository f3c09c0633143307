"""Perceptual figures of audio: naturalness, words, voice, and closeness to an original. Needs the extra `judge`."""
