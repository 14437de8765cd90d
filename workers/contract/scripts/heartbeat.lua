-- heartbeat: a worker lives. The epoch it answers tells whether Redis is still the one it registered with.
-- KEYS 1 worker   2 workers   3 epoch
-- ARGV 1 worker   2 life, ms   3 a word for a new epoch   4… field, value, … of the worker's description
-- Answers: the epoch
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('HSET', KEYS[1], unpack(ARGV, 4))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('ZADD', KEYS[2], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - 60000)
redis.call('SET', KEYS[3], ARGV[3], 'NX')
return redis.call('GET', KEYS[3])
