-- renew: a worker lives, and so do the environments it names; their leases move on.
-- KEYS 1 environments of the worker   2 leases of the worker   3 idle of the worker   4… environment, warm of its revision, …
-- ARGV 1 life of the records, ms   2 lease, ms   3… environment, … in the order of KEYS
-- Answers: the environments Redis has no record of
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
for i = 1, 3 do
  redis.call('PEXPIRE', KEYS[i], ARGV[1])
end
local missing = {}
for i = 3, #ARGV do
  local at = 4 + (i - 3) * 2
  if redis.call('PEXPIRE', KEYS[at], ARGV[1]) == 0 then
    missing[#missing + 1] = ARGV[i]
  else
    redis.call('PEXPIRE', KEYS[at + 1], ARGV[1])
    redis.call('ZADD', KEYS[2], 'XX', now + ARGV[2], ARGV[i])
  end
end
return missing
