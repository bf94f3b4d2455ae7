"""The engine's resources, a module each: how a call becomes a request, and its answer a model."""
