-- rejoin: after Redis was lost, a worker records an attempt that it is running again.
-- KEYS 1 invocation   2 concurrency set
-- ARGV 1 attempt   2 worker   3 environment   4 member request_id:attempt   5 how long it may still run, ms
-- Answers: rejoined | known
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 'known'
end
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('HSET', KEYS[1], 'state', 'run', 'attempt', ARGV[1], 'worker', ARGV[2], 'environment', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[5] + 60000)
redis.call('ZADD', KEYS[2], now + ARGV[5], ARGV[4])
if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[5]) + 60000 then
  redis.call('PEXPIRE', KEYS[2], ARGV[5] + 60000)
end
return 'rejoined'
