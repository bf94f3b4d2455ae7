"""One rate limit for several processes, kept by a Redis or Valkey server: `RedisRateLimiter`.

It needs the extra `redis`.
"""

from tensorpool_async.redis.limiter import RedisRateLimiter


__all__ = ["RedisRateLimiter"]
