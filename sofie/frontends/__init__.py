"""Readers of models: each turns a file into a level 1 module."""
