"""Models of public libraries, through their own packages, beside ours on the very same rows.

Each library lives in a virtual environment of its own (`environments.py`) and is trained by its own data sets, loaders
and trainers in a process of its own (`drivers/`); rows go in and probabilities come out as plain .npy files
(`exchange.py`). Nothing here is part of what is installed.
"""
