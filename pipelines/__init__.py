"""The components and pipelines of the series: modules to import, to test, and to copy into an image."""
