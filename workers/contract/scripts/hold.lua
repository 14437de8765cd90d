-- hold: be the one that does something, for a while; asked again in time it stays so.
-- KEYS 1 lock
-- ARGV 1 owner   2 life, ms
-- Answers: held | other
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return 'other'
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 'held'
