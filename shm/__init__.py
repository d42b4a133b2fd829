"""Memory shared between the processes of one server: layouts, segments, rings, counters, liveness.

Needs the standard library only (numpy describes layouts for tools). Knows nothing of packets, gRPC or Kafka.
Import the modules by name, for instance ``from trackside.shm.ring import RingWriter``.
"""
