"""Errors of the contract.

    ContractError
    ├── ArtefactError     an artefact folder is missing, torn, altered or of a format not known here
    ├── CatalogueError    a catalogue is missing, altered, or not the one an artefact was made for
    ├── BlobError         bytes from the store do not decode
    └── FeatureError      a feature is declared or encoded in a way that cannot be served

Each message says what was read, what was expected, and what to do.
"""


class ContractError(Exception):
    """Root of what the contract raises."""


class ArtefactError(ContractError):
    """An artefact folder is missing, torn, altered or of an unknown format."""


class CatalogueError(ContractError):
    """A catalogue is missing, altered, or not the one an artefact was made for."""


class BlobError(ContractError):
    """Bytes from the store do not decode."""


class FeatureError(ContractError):
    """A feature is declared or encoded in a way that cannot be served."""
