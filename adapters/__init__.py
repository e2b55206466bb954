"""The adapters that ship with mszoo: one plugin per suite. Data only; nothing heavy is imported."""
