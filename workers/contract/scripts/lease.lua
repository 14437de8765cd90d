-- lease: its own worker leases an environment for an attempt; the worker knows it to be idle. Only acquire can have been
-- faster, and that shows by a generation the worker has not seen; any other contradiction means that Redis lost writes.
-- KEYS 1 environment   2 leases of its worker   3 idle of its worker   4 warm of its revision
-- ARGV 1 environment   2 owner token   3 generation last seen   4 lease, ms   5 life of the records, ms
-- Answers: the generation it has now | gone (no record) | busy (another worker leased it, and its message is on the way)
local record = redis.call('HMGET', KEYS[1], 'state', 'owner', 'generation')
if not record[1] then
  return 'gone'
end
local before, seen = tonumber(record[3]), tonumber(ARGV[3])
if record[1] ~= 'idle' and before > seen then
  -- Our own token: the answer was lost with the connection.
  return record[2] == ARGV[2] and record[3] or 'busy'
end
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
local generation = string.format('%d', math.max(before, seen) + 1)
redis.call('HSET', KEYS[1], 'state', 'leased', 'owner', ARGV[2], 'generation', generation)
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('ZADD', KEYS[2], now + ARGV[4], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
return generation
