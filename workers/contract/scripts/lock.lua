-- lock: be the one process that does something, for a while; who asks again in time stays the one.
-- KEYS 1 lock
-- ARGV 1 owner   2 life, ms
-- Answers: locked | other
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then
  return 'other'
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 'locked'
