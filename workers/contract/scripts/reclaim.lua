-- reclaim: a lease has ended that its worker knows nothing of (its message was lost): the environment is idle again. Its
-- last use stays what it was.
-- KEYS 1 environment   2 leases of its worker   3 idle of its worker   4 warm of its revision
-- ARGV 1 environment   2 life of the records, ms
-- Answers: the generation it has now | leased (the lease goes on: its message came meanwhile) | gone (Redis was lost)
local record = redis.call('HMGET', KEYS[1], 'state', 'generation', 'last_use')
if not record[1] then
  return 'gone'
end
if record[1] == 'idle' then
  return record[2]
end
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
local deadline = redis.call('ZSCORE', KEYS[2], ARGV[1])
if deadline and tonumber(deadline) > now then
  return 'leased'
end
local generation = string.format('%d', record[2] + 1)
redis.call('HSET', KEYS[1], 'state', 'idle', 'owner', '', 'generation', generation)
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZADD', KEYS[3], record[3], ARGV[1])
redis.call('ZADD', KEYS[4], record[3], ARGV[1])
for _, key in ipairs(KEYS) do
  redis.call('PEXPIRE', key, ARGV[2])
end
return generation
