"""Tests of the command line. A package, since other folders have test modules of the same names."""
