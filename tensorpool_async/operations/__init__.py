"""Changes at the engine, from the request to the end of the operation."""
