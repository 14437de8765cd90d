-- accept: a message of acquire has arrived at the worker that owns the environment; its lease begins.
-- KEYS 1 environment   2 leases of its worker
-- ARGV 1 environment   2 owner token   3 generation   4 lease, ms   5 life of the records, ms
-- Answers: accepted | gone (Redis was lost) | foreign (the lease ended before the message came)
local record = redis.call('HMGET', KEYS[1], 'state', 'owner', 'generation')
if not record[1] then
  return 'gone'
end
if record[1] ~= 'leased' or record[2] ~= ARGV[2] or record[3] ~= ARGV[3] then
  return 'foreign'
end
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('ZADD', KEYS[2], now + ARGV[4], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
return 'accepted'
