"""What all requests of a client share: slots, a pace, pauses, lanes, and a budget for retries."""

from tensorpool_async.flow.budget import RetryBudget
from tensorpool_async.flow.limiter import LimiterStatistics, RateLimiter


__all__ = ["LimiterStatistics", "RateLimiter", "RetryBudget"]
