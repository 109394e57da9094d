"""Floor 6: a teacher that looks at each training image once, and is read from files then."""

from congruence.teacher_cache.cache import TeacherCache

__all__ = ["TeacherCache"]
