def _register_atb_extensions() -> None:
    """They are there from the start."""
