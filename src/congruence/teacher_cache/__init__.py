"""Floor 6: a teacher that runs once on each training image and is then read from files."""

from congruence.teacher_cache.cache import TeacherCache
from congruence.teacher_cache.making import fill_shard
from congruence.teacher_cache.shards import ShardState, shards_in

__all__ = ["ShardState", "TeacherCache", "fill_shard", "shards_in"]
