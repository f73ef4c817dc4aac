"""The one place that holds dipc's version; the build reads it from here too."""

__version__ = "0.1.0"
