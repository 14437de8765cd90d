-- release: hand a leased environment back, and stamp its last use.
-- KEYS 1 environment   2 leases of its worker   3 idle of its worker   4 warm of its revision
-- ARGV 1 environment   2 owner token   3 generation   4 life of the records, ms
-- Answers: idle | gone (retired, or Redis was lost) | older (Redis lost writes: the record is of an earlier lease)
--      | foreign (a later lease: a late owner does no harm)
local record = redis.call('HMGET', KEYS[1], 'owner', 'generation', 'state')
if not record[2] then
  return 'gone'
end
if tonumber(record[2]) < tonumber(ARGV[3]) then
  return 'older'
end
if record[2] ~= ARGV[3] then
  return 'foreign'
end
if record[1] ~= ARGV[2] then
  -- Idle with this generation: it was released, and the answer was lost with the connection.
  return record[3] == 'idle' and 'idle' or 'foreign'
end
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('HSET', KEYS[1], 'state', 'idle', 'owner', '', 'last_use', now)
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZADD', KEYS[3], now, ARGV[1])
redis.call('ZADD', KEYS[4], now, ARGV[1])
for _, key in ipairs(KEYS) do
  redis.call('PEXPIRE', key, ARGV[4])
end
return 'idle'
