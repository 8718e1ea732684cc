"""The one table that ties a model_type to its classes in the Auto classes."""
