"""The real engine in simulated histories: crashes, partitions and servers that forget, chosen by a seed.

What runs is `ResilientStore` with its journal, drain, keeper and reader on the real SQLite; only time,
chance, the network, the disk and the server are models. See `histories.play`.
"""
