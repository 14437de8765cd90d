-- sweep: name the environments of one worker that must go: idle for too long, or leased past the end of the lease.
-- It changes nothing: the worker retires each one, which fails when somebody took it meanwhile.
-- KEYS 1 idle of the worker   2 leases of the worker
-- ARGV 1 idle time allowed, ms
-- Answers: {idle environments, environments with an expired lease}
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
return {
  redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[1]),
  redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now),
}
