def step() -> None:
    pass
