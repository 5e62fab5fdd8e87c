"""Offline stand-in chat models: they read, decide and err by rules, and are no language models."""
