"""The version of this package; the build reads it here, so that a run need not look for installed packages."""

VERSION = __version__ = "0.1.0"
