"""From level 4 to text: C++ headers and their weight files."""
