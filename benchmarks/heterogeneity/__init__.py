"""Methods of model-heterogeneous training on devices that are limited in different ways."""
