"""Ready-made graphs whose model steps are cascades: each `build(small, large, ...)` gives a compiled graph."""
