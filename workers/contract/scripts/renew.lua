-- renew: a worker lives, and so do the environments it names. Only the leases of those that it runs on move on: one that
-- acquire gave away ends, unless its message comes. What expired of the indexes while the worker was paused comes back.
-- KEYS 1 environments of the worker   2 leases of the worker   3 idle of the worker   4… environment, warm of its revision, …
-- ARGV 1 life of the records, ms   2 lease, ms   3… environment, generation, owner token ("" when it is idle), …
-- Answers: the environments of which Redis has no record, one older than the worker's copy, or one of another lease than
--      that which the worker runs on
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
local missing = {}
for i = 3, #ARGV, 3 do
  local environment, owned = ARGV[i], ARGV[i + 2] ~= ''
  local record, warm = KEYS[4 + (i - 3) / 3 * 2], KEYS[5 + (i - 3) / 3 * 2]
  local found = redis.call('HMGET', record, 'state', 'generation', 'last_use', 'owner')
  if not found[1] or tonumber(found[2]) < tonumber(ARGV[i + 1]) or owned and found[4] ~= ARGV[i + 2] then
    missing[#missing + 1] = environment
  else
    redis.call('SADD', KEYS[1], environment)
    if found[1] == 'idle' then
      redis.call('ZADD', KEYS[3], 'NX', found[3], environment)
      redis.call('ZADD', warm, 'NX', found[3], environment)
    elseif owned then
      redis.call('ZADD', KEYS[2], now + ARGV[2], environment)
    else
      redis.call('ZADD', KEYS[2], 'NX', now + ARGV[2], environment)
    end
    redis.call('PEXPIRE', record, ARGV[1])
    redis.call('PEXPIRE', warm, ARGV[1])
  end
end
for i = 1, 3 do
  redis.call('PEXPIRE', KEYS[i], ARGV[1])
end
return missing
