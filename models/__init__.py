"""Native MindSpore models, built from mszoo.layers."""
