"""Floor 6: a teacher that runs once on each training image and is then read from files."""

from congruence.teacher_cache.cache import TeacherCache

__all__ = ["TeacherCache"]
