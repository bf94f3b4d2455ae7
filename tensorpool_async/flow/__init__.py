"""What all requests of a client share: slots, a pace, pauses, lanes, and a budget for retries."""

from tensorpool_async.flow.budget import RetryBudget
from tensorpool_async.flow.limiter import Limiter, LimiterStatistics, RateLimiter


__all__ = ["Limiter", "LimiterStatistics", "RateLimiter", "RetryBudget"]
