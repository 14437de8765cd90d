-- register: an environment exists (state starting, before anything of it does), or its worker writes the record anew,
-- since Redis lost it or missed a change. What the worker runs on is leased whatever the record says; what it knows to be
-- idle may have been leased by acquire meanwhile.
-- KEYS 1 environment   2 environments of its worker   3 leases of its worker   4 idle of its worker   5 warm of its revision
-- ARGV 1 environment   2 state: starting | leased | idle   3 owner token   4 generation: one more than the worker's
--      5 lease, ms   6 life of the records, ms   7… field, value, … of the environment's description
-- Answers: the generation it has now | newer (it was idle, and is leased by then: nothing is changed)
local record = redis.call('HMGET', KEYS[1], 'state', 'generation')
local before, asked = tonumber(record[2] or 0), tonumber(ARGV[4])
if ARGV[2] == 'idle' and record[1] and before >= asked then
  return record[1] == 'idle' and record[2] or 'newer'
end
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
local generation = string.format('%d', math.max(before + 1, asked))
redis.call('HSET', KEYS[1], 'state', ARGV[2], 'owner', ARGV[3], 'generation', generation, 'last_use', now, unpack(ARGV, 7))
redis.call('SADD', KEYS[2], ARGV[1])
if ARGV[2] == 'idle' then
  redis.call('ZREM', KEYS[3], ARGV[1])
  redis.call('ZADD', KEYS[4], now, ARGV[1])
  redis.call('ZADD', KEYS[5], now, ARGV[1])
else
  redis.call('ZREM', KEYS[4], ARGV[1])
  redis.call('ZREM', KEYS[5], ARGV[1])
  redis.call('ZADD', KEYS[3], now + ARGV[5], ARGV[1])
end
for _, key in ipairs(KEYS) do
  redis.call('PEXPIRE', key, ARGV[6])
end
return generation
