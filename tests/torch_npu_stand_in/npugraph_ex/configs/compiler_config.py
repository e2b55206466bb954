def _process_kwargs_options(config, options) -> None:
    config.options = options["options"]
