"""The one error of the build scripts."""


class BuildError(Exception):
    """A foreseeable failure; its text says what was expected, found, to do."""
