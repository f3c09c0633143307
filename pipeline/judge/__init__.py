"""Perceptual measures of audio: naturalness, words, voice, similarity to an original. Needs the extra `judge`."""
