-- sweep: name the environments of one worker that have been idle for too long, and those whose lease has ended.
-- This decides nothing: the worker retires or reclaims each one, which fails when somebody took it meanwhile. Entries whose
-- record is gone (it could not be retired while Redis was away) are dropped.
-- KEYS 1 idle of the worker   2 leases of the worker   3 environments of the worker
-- ARGV 1 idle time allowed, ms   2 prefix of environment
-- Answers: two lists of environments, the idle ones and those with an ended lease
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
local function known(set, until_ms)
  local names = {}
  for _, environment in ipairs(redis.call('ZRANGEBYSCORE', set, '-inf', until_ms)) do
    if redis.call('EXISTS', ARGV[2] .. environment) == 1 then
      names[#names + 1] = environment
    else
      redis.call('ZREM', set, environment)
      redis.call('SREM', KEYS[3], environment)
    end
  end
  return names
end
return {known(KEYS[1], now - ARGV[1]), known(KEYS[2], now)}
