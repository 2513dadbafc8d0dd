"""Models in this process.  Torch and Transformers are imported below this package only, and only when a model loads."""
