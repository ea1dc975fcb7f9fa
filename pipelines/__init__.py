"""The components and pipelines of the series, as modules to import, test and bake into an image."""
