"""Configs as publishers wrote them, shrunk, and what every suite makes of them."""
