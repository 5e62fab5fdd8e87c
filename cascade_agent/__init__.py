"""Small-then-large model cascades for LangGraph, every decision on record."""
