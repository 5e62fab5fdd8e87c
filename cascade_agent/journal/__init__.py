"""Append-only files of step traces and labels: written, read, exported."""
