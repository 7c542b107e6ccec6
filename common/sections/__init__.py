"""Sections of a run's configuration, a module each; :mod:`common.settings` puts them together."""
