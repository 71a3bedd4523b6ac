"""Batch prediction of any number of photographs, on one machine or on a Ray cluster, into Parquet shards: docs/cluster.md.

The photographs are sorted and cut into shards. A shard is computed by one worker, written as one file that appears at once or not at
all and is never replaced, and then noted in a manifest. Whatever is killed, the same call again does the shards that are missing, and
the folder ends with the bytes that one process would have written.
"""

from segmae.cluster.run import Batch, predict_batch

__all__ = ["Batch", "predict_batch"]
