"""Ready-made graphs whose model steps are cascades, their measured tasks, and the offline stand-in models."""
