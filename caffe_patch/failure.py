"""The one error of the build scripts."""


class BuildError(Exception):
    """A foreseeable failure; it says what was expected, what was found, what to do."""
