-- sweep: name the environments of one worker that have been idle for too long.
-- It changes nothing: the worker retires each one, which fails when somebody took it meanwhile.
-- KEYS 1 idle of the worker
-- ARGV 1 idle time allowed, ms
-- Answers: the environments
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[1])
