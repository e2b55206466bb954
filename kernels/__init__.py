"""The ops that layers are made of: one specification per op, the kernel sets, and who runs what.

``spec`` holds what each op means, ``mindspore_set`` and ``cpu_set`` implement it, ``dispatch`` chooses, and
``exchange`` moves tensors between torch and MindSpore. Importing this package imports neither.
"""
