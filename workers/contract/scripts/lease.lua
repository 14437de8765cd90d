-- lease: take one idle environment for one attempt.
-- KEYS 1 environment   2 leases of its worker   3 idle of its worker   4 warm of its revision
-- ARGV 1 environment   2 owner token   3 generation last seen   4 lease, ms   5 life of the records, ms
-- Answers: leased | gone (no record, or another generation) | busy
local record = redis.call('HMGET', KEYS[1], 'state', 'generation')
if not record[1] or record[2] ~= ARGV[3] then
  return 'gone'
end
if record[1] ~= 'idle' then
  return 'busy'
end
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('HSET', KEYS[1], 'state', 'leased', 'owner', ARGV[2], 'generation', ARGV[3] + 1)
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('ZADD', KEYS[2], now + ARGV[4], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
return 'leased'
