"""An asyncio-native client for the TensorPool GPU cloud."""
