"""Measured tasks for the graphs: their data, the run that judges success, and the demo that compares models on them."""
