"""The control plane between a driver and its workers: messages, handshake, channel, heartbeats, checks."""
