"""Ways to move KV cache bytes between processes, all behind ``backends.transport.port``."""
