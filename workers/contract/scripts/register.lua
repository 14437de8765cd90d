-- register: an environment exists (state starting, before anything of it does), or exists again after Redis was lost.
-- KEYS 1 environment   2 environments of its worker   3 leases of its worker   4 idle of its worker   5 warm of its revision
-- ARGV 1 environment   2 state: starting | leased | idle   3 owner token   4 generation   5 lease, ms
--      6 life of the records, ms   7… field, value, … of the environment's description
-- Answers: registered
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('HSET', KEYS[1], 'state', ARGV[2], 'owner', ARGV[3], 'generation', ARGV[4], 'last_use', now, unpack(ARGV, 7))
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
return 'registered'
