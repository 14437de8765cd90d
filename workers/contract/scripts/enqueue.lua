-- enqueue: admit a synchronous invocation and publish its message, in one step, so that a dispatcher that dies
-- between the two leaves neither a taken place nor a message without one.
-- KEYS 1 concurrency set   2 queue   3 payload key
-- ARGV 1 limit (-1 = none)   2 member request_id:attempt   3 how long the place may be taken, ms   4 Celery message
--      5 payload of its own key, or ""   6 life of that key, ms
-- Answers: enqueued | throttled
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
local limit = tonumber(ARGV[1])
if limit >= 0 then
  -- Past entries belong to attempts whose worker and dispatcher both died: they fall out on reading.
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. now)
  if redis.call('ZCARD', KEYS[1]) >= limit then
    return 'throttled'
  end
end
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[2])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) + 60000 then
  redis.call('PEXPIRE', KEYS[1], ARGV[3] + 60000)
end
if ARGV[5] ~= '' then
  redis.call('SET', KEYS[3], ARGV[5], 'PX', ARGV[6])
end
redis.call('LPUSH', KEYS[2], ARGV[4])
return 'enqueued'
