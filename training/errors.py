"""Errors of the offline side.

TrainingError
├── ConfigError     the configuration cannot be read or asks for what there is not
├── StageError      a stage lacks its input, or what it made was refused
└── data.errors.DataError   the data are not as they must be
"""


class TrainingError(Exception):
    """Root of what the offline side raises for a person to read."""


class ConfigError(TrainingError):
    """The configuration cannot be read or asks for what there is not."""


class StageError(TrainingError):
    """A stage lacks its input, or what it made was refused."""
