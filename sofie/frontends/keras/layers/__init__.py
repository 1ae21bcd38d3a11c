"""The layers, one file a family; each function is found through `@layer`."""
